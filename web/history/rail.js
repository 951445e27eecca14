// The lines beside the list of steps, one drawing for each row.
import { drawing } from "./elements.js"

const LANE = 14 // pixels between two lanes
const MOST = 6 // further lanes are drawn on the last
export const ROW = 64 // pixels, as in history.css

const across = (lane) => LANE / 2 + LANE * Math.min(lane, MOST - 1)

export function railWidth(lanes) {
  return LANE * Math.min(Math.max(...lanes) + 1, MOST)
}

/** The drawing of one row: lines that pass, the one that ends or goes on here, forks to the lanes below, and a dot. */
export function drawRail(layout, step, width, { current, main }) {
  const { lanes, through, forks } = layout
  const middle = ROW / 2
  const own = across(lanes[step])
  const next = through[step + 1] ?? new Set()
  const parts = []
  const line = (path, lane) => parts.push(drawing("path", { d: path, class: lane === 0 ? "reedit-main" : "reedit-side" }))
  for (const lane of through[step]) {
    const x = across(lane)
    if (lane === lanes[step]) line(`M${x} 0V${middle}`, lane)
    else if (next.has(lane)) line(`M${x} 0V${ROW}`, lane)
  }
  if (next.has(lanes[step])) line(`M${own} ${middle}V${ROW}`, lanes[step])
  for (const lane of forks[step]) {
    const x = across(lane)
    line(`M${own} ${middle}C${own} ${ROW - 8} ${x} ${middle + 8} ${x} ${ROW}`, lane)
  }
  const kind = current ? "reedit-now" : main ? "reedit-main" : "reedit-side"
  const dot = { cx: own, cy: middle, r: current ? 5 : 4, class: kind }
  parts.push(drawing("circle", dot))
  const view = { width, height: ROW, viewBox: `0 0 ${width} ${ROW}`, "aria-hidden": "true", class: "reedit-rail" }
  return drawing("svg", view, parts)
}
