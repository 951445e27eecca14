// The nodes before and after a node, as the latent runs: through the borders of subgraphs too.
import { app } from "../../../scripts/app.js"

/** The slots' numbers, LATENT first, since the session travels there. */
function latentFirst(slots) {
  const all = (slots ?? []).map(({ type }, slot) => ({ slot, latent: type === "LATENT" }))
  return all.sort((one, other) => other.latent - one.latent).map(({ slot }) => slot)
}

/** The nodes that stand for a subgraph in the graphs around it. */
function standIns(subgraph) {
  const graphs = [app.rootGraph, ...(app.rootGraph.subgraphs?.values() ?? [])]
  return graphs.flatMap((graph) => graph.nodes.filter((node) => node.subgraph === subgraph))
}

/** What feeds an input. A link that has no node at its start comes in from outside. */
function before(node, slot) {
  const found = node.getInputNode(slot)
  if (found) return [found]
  const link = node.getInputLink(slot)
  return link ? standIns(node.graph).flatMap((one) => before(one, link.origin_slot)) : []
}

/** What an output feeds. A link that goes to the border of the graph goes on outside. */
function after(node, slot) {
  const links = (node.outputs[slot].links ?? []).map((id) => node.graph.getLink(id)).filter(Boolean)
  return links.flatMap(({ target_id, target_slot }) => {
    const found = node.graph.getNodeById(target_id)
    return found ? [found] : standIns(node.graph).flatMap((one) => after(one, target_slot))
  })
}

/** The nodes in a subgraph at one of its borders: side is "inputNode", end "target_id", or "outputNode" and "origin_id". */
function inside({ subgraph }, side, end) {
  const links = (subgraph?.[side]?.slots ?? []).flatMap((slot) => slot.getLinks())
  return links.map((link) => subgraph.getNodeById(link[end])).filter(Boolean)
}

const nodesBefore = (node) => [
  ...inside(node, "outputNode", "origin_id"),
  ...latentFirst(node.inputs).flatMap((slot) => before(node, slot)),
]
const nodesAfter = (node) => [
  ...inside(node, "inputNode", "target_id"),
  ...latentFirst(node.outputs).flatMap((slot) => after(node, slot)),
]

/** The node and all that feed it (or that it feeds), the nearest first. */
function* walk(node, neighbours) {
  const seen = new Set([node])
  for (const one of seen) {
    yield one
    for (const next of neighbours(one)) seen.add(next) // a Set is walked in the order in which it grows
  }
}

export const upstream = (node) => walk(node, nodesBefore)
export const downstream = (node) => walk(node, nodesAfter)
export const around = (node) => walk(node, (one) => [...nodesBefore(one), ...nodesAfter(one)])

/** The nodes of a graph, and those in its subgraphs. */
export function* nodesIn(graph) {
  for (const node of graph?.nodes ?? []) {
    yield node
    if (node.subgraph) yield* nodesIn(node.subgraph)
  }
}
