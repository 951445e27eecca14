// Under which names the page keeps what nodes told.
import { app } from "../../../scripts/app.js"

export const KEY = "reedit_session"

/** The name of a node: one in a subgraph has the subgraph's before its own. */
export function locator(node) {
  const graph = node.graph
  return !graph || graph === app.rootGraph || graph.isRootGraph ? String(node.id) : `${graph.id}:${node.id}`
}
