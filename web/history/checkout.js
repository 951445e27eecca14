// Going to a step: the panel sets the widget of a ReEdit Checkout node, and the next run goes there.
import { app } from "../../../scripts/app.js"
import { around, downstream, nodesIn, upstream } from "./neighbours.js"
import { isHere, selectedNode, sessionOf, withSession } from "./session.js"

const TYPE = "ReEditCheckout"
const WIDGET = "edit"

const widgetOf = (node) => node.widgets?.find((widget) => widget.name === WIDGET)
const isWired = (node) => node.inputs?.some((input) => input.widget?.name === WIDGET && input.link != null)
const isCheckout = (node) => node.type === TYPE && Boolean(widgetOf(node)) && !isWired(node)

/**
 * What to write into a Checkout's widget for each step that its session has: a Map by the steps' names. Where neither it nor
 * what feeds it has told of a session, since the host had no need to run them again, by the session that is shown.
 */
function wordsOf(checkout, shown) {
  const { steps } = withSession(upstream(checkout))?.session ?? shown
  return new Map(steps.map(({ name, parent, number }) => [name, parent === null ? "source" : String(number)]))
}

/** The Checkout nodes near a node, the best first: the selected one, then those after, before and beside the node. */
function candidates(node) {
  const selected = selectedNode()
  const all = [...(selected ? [selected] : []), ...downstream(node), ...upstream(node), ...around(node)]
  return [...new Set(all)].filter(isCheckout)
}

/** { checkout, word } for a step of the session that a node shows: the best Checkout node that has it; or undefined. */
export function findCheckout({ node, session }, step) {
  const found = candidates(node).map((checkout) => ({ checkout, word: wordsOf(checkout, session).get(step.name) }))
  return found.find(({ word }) => word !== undefined)
}

/**
 * { widget, step }: of the best Checkout node, and the step to which it is set, unless it went there in the last run.
 * Either may be undefined.
 */
export function stepToCome({ node, session }) {
  const [checkout] = candidates(node)
  if (!checkout) return {}
  const widget = widgetOf(checkout)
  const words = wordsOf(checkout, session)
  const next = session.steps.find((step) => words.get(step.name) === widget.value)
  const before = sessionOf(checkout) ?? session
  return { widget, step: before.steps[before.current].name === next?.name ? undefined : next }
}

/** Set a Checkout's widget as a person would: the change can be undone, and both kinds of canvas show it. */
export function setCheckout({ checkout, word }) {
  const widget = widgetOf(checkout)
  checkout.graph?.beforeChange?.()
  widget.value = word
  widget.callback?.(word, app.canvas, checkout)
  checkout.graph?.afterChange?.()
  app.canvas?.setDirty(true, true)
}

/** The output that hands on the session which a node was given or made: { node, slot }. */
function latentOf(node) {
  for (const one of upstream(node)) {
    const slot = (one.outputs ?? []).findIndex((output) => output.type === "LATENT")
    if (slot >= 0) return { node: one, slot }
  }
  return undefined
}

/** Put a ReEdit Checkout node beside the node whose session is shown, wired to it. Undefined if no latent leads there. */
export function addCheckout(shown) {
  // Of a node in a subgraph, beside the subgraph: where the user looks.
  const holds = ({ subgraph }) => subgraph && [...nodesIn(subgraph)].includes(shown)
  const node = isHere(shown) ? shown : (app.canvas.graph.nodes.find(holds) ?? shown)
  const source = latentOf(node)
  const checkout = source && globalThis.LiteGraph?.createNode(TYPE)
  if (!checkout) return undefined
  const [x, y] = node.pos
  checkout.pos = [x + node.size[0] + 60, y]
  const { graph } = node
  graph.beforeChange?.()
  graph.add(checkout)
  source.node.connect(source.slot, checkout, 0)
  graph.afterChange?.()
  app.canvas?.setDirty(true, true)
  return checkout
}
