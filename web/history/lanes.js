// Where the lines of a branching history run: one row for each step in the order of their making, one lane for each branch.

/** The numbers from the source to a step. parents: of each step, null for the source. */
export function pathTo(parents, step) {
  const path = new Set()
  for (let at = step; at !== null && at !== undefined; at = parents[at]) path.add(at)
  return path
}

/**
 * The lane of each step, and the lanes that pass each row.
 *
 * A branch goes on with the child that leads to the current step, else with its first. It takes the lane furthest left that
 * is free from the row of the step that it leaves to the row of its last step.
 * Returns { lanes: [lane], through: [Set of lanes whose line enters the row], forks: [lanes that begin in the row] }.
 */
export function findLanes(parents, current) {
  const children = parents.map(() => [])
  parents.forEach((parent, step) => parent !== null && children[parent].push(step))
  const path = pathTo(parents, current)
  const onward = (step) => children[step].find((child) => path.has(child)) ?? children[step][0]
  const lanes = parents.map(() => 0)
  const through = parents.map(() => new Set())
  const forks = parents.map(() => [])
  const ends = [] // of each lane: the last row that is taken
  const branches = [0]
  parents.forEach((parent, step) => parent !== null && onward(parent) !== step && branches.push(step))
  branches.sort((one, other) => (parents[one] ?? -1) - (parents[other] ?? -1))
  for (const first of branches) {
    const start = parents[first] ?? 0
    let lane = ends.findIndex((end) => end < start)
    if (lane < 0) lane = ends.length
    let last = first
    for (let step = first; step !== undefined; step = onward(step)) {
      lanes[step] = lane
      last = step
    }
    ends[lane] = last
    if (parents[first] !== null) forks[start].push(lane)
    for (let row = start + 1; row <= last; row++) through[row].add(lane)
  }
  return { lanes, through, forks }
}
