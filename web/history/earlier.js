// What the nodes of the open workflow told in earlier runs. The page forgets it when it is loaded anew, the host does not.
import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { KEY, locator } from "./locator.js"

const RUNS = 5 // of which the newest counts, for each node
const CLEARED = "00000000-0000-0000-0000-000000000000" // the name of any workflow after the page has cleared it

let earlier = { told: new Map() }

/** The host's answer; {} where it is away. */
async function ask(route) {
  const answer = await api.fetchApi(route).catch(() => undefined)
  return answer?.ok ? answer.json() : {}
}

/** The node that a run names by its own id, after those of the subgraphs that it stands in. */
function nodeOf(name) {
  let node
  let graph = app.rootGraph
  for (const id of name.split(":")) {
    node = graph?.getNodeById(id)
    graph = node?.subgraph
  }
  return node
}

/** Ask the host for the last runs of the open workflow. Another workflow may have nodes of the same ids. */
export async function readEarlier() {
  const workflow = app.rootGraph.id
  if (workflow === CLEARED) return
  const { jobs } = await ask(`/jobs?workflow_id=${workflow}&status=completed,failed,cancelled&limit=${RUNS}`)
  const runs = await Promise.all((jobs ?? []).map(({ id }) => ask(`/jobs/${id}`)))
  if (app.rootGraph.id !== workflow) return
  const told = new Map()
  for (const { outputs = {}, workflow: run } of runs) {
    for (const [name, output] of Object.entries(outputs)) {
      const node = nodeOf(name)
      const same = node && node.type === run?.prompt?.[name]?.class_type
      if (same && output?.[KEY] && !told.has(locator(node))) told.set(locator(node), output[KEY])
    }
  }
  earlier = { workflow, told }
}

/** What the nodes of the open workflow told earlier: a Map by the nodes' names. */
export const toldEarlier = () => (earlier.workflow === app.rootGraph?.id ? earlier.told : new Map())
