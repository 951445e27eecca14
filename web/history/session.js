// Which session the panel shows, from what the nodes of the open graph told when they ran.
import { app } from "../../../scripts/app.js"
import { toldEarlier } from "./earlier.js"
import { KEY, locator } from "./locator.js"
import { nodesIn, upstream } from "./neighbours.js"

/** What a node told of its session when it last ran: { current, steps }; undefined if it has told nothing. */
export function sessionOf(node) {
  const name = locator(node)
  const [session] = app.nodeOutputs?.[name]?.[KEY] ?? toldEarlier().get(name) ?? []
  return Array.isArray(session?.steps) && session.steps.length ? session : undefined
}

/** The first of these nodes that has told of a session: { node, session }. */
export function withSession(nodes) {
  for (const node of nodes) {
    const session = sessionOf(node)
    if (session) return { node, session }
  }
  return undefined
}

/** Whether a node stands in the graph that is open. */
export const isHere = (node) => app.canvas?.graph?.getNodeById(node.id) === node

/** The first of the selected nodes; groups can be selected too, and what was removed may still be. */
export function selectedNode() {
  const selected = [...(app.canvas?.selectedItems ?? [])]
  return selected.find((item) => typeof item.getInputNode === "function" && isHere(item))
}

/**
 * { node, session } to show: of the selected node, or of what feeds it. Where that has none, of the node that was shown
 * before. Where nothing is selected, the longest session, of several nodes that have it the one that told of it last; of
 * those that told before the page was loaded, the one that comes last in the graph.
 * order: a Map from a node's name, as the page keeps it, to when it told.
 */
export function findSession(before, order) {
  const selected = selectedNode()
  const found = selected && withSession(upstream(selected))
  if (found) return found
  if (selected && before && isHere(before) && sessionOf(before))
    return { node: before, session: sessionOf(before) }
  const told = [...nodesIn(app.canvas?.graph)].filter(sessionOf).map((node) => ({ node, session: sessionOf(node) }))
  const when = ({ node }) => order.get(locator(node)) ?? 0
  const length = ({ session }) => session.steps.length
  const last = (one, other) => when(other) - when(one) || other.node.order - one.node.order
  told.sort((one, other) => length(other) - length(one) || last(one, other))
  return told[0]
}

/** The best picture of every step that any node has told of, by the step's name: a decoded one before rough colours. */
export function collectPictures() {
  const pictures = new Map()
  const sessions = [...Object.values(app.nodeOutputs ?? {}).map((output) => output?.[KEY]), ...toldEarlier().values()]
  for (const session of sessions) {
    for (const { name, picture, rough } of session?.[0]?.steps ?? []) {
      if (picture && (!pictures.has(name) || !rough)) pictures.set(name, { picture, rough })
    }
  }
  return pictures
}
