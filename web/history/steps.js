// The list of steps: one row each, in the order in which they were made.
import { nameOf } from "./comparison.js"
import { element } from "./elements.js"
import { findLanes, pathTo } from "./lanes.js"
import { pictureAddress } from "./pictures.js"
import { drawRail, railWidth } from "./rail.js"
import { text } from "./texts.js"

export class Steps {
  /** look(number): the step to compare, when the pointer or the focus comes to it. choose(number): to check it out. */
  constructor(look, choose) {
    this.look = look
    this.choose = choose
    this.element = element("ol", {
      class: "reedit-steps",
      role: "listbox",
      "aria-label": text("steps"),
    })
    this.element.addEventListener("keydown", (event) => this.press(event))
    this.element.addEventListener("click", (event) => this.at(event, (number) => this.choose(number)))
    this.element.addEventListener("pointerover", (event) => this.at(event, (number) => this.look(number)))
    this.element.addEventListener("focusin", (event) => this.at(event, (number) => this.reach(number)))
    // Errors of pictures do not bubble; they are caught on their way down.
    this.element.addEventListener("error", (event) => event.target.classList?.add("reedit-gone"), true)
  }

  at(event, act) {
    const row = event.target.closest?.("[data-step]")
    if (row) act(Number(row.dataset.step))
  }

  /** Show a session. The step that had the focus keeps it. */
  show(session, pictures) {
    const focused = this.element.contains(document.activeElement) ? Number(document.activeElement.dataset.step) : undefined
    const parents = session.steps.map((step) => step.parent)
    const layout = findLanes(parents, session.current)
    const path = pathTo(parents, session.current)
    const width = railWidth(layout.lanes)
    const rows = document.createDocumentFragment()
    for (const step of session.steps) {
      const state = { current: step.number === session.current, main: path.has(step.number) }
      const rail = drawRail(layout, step.number, width, state)
      rows.append(drawRow(step, rail, pictures.get(step.name), state))
    }
    this.element.replaceChildren(rows)
    this.reach(focused ?? session.current)
    if (focused !== undefined) this.row(focused)?.focus()
  }

  row(number) {
    return this.element.children[number]
  }

  /** Make a row the one that Tab comes to. */
  reach(number) {
    if (this.tabStop) this.tabStop.tabIndex = -1
    this.tabStop = this.row(number)
    if (this.tabStop) this.tabStop.tabIndex = 0
    this.look(number)
  }

  /** Mark the step to which the next run goes; undefined for none. */
  mark(number) {
    for (const row of this.element.querySelectorAll(".reedit-next")) row.classList.remove("reedit-next")
    this.row(number)?.classList.add("reedit-next")
  }

  press(event) {
    const row = event.target.closest("[data-step]")
    if (!row || event.ctrlKey || event.altKey || event.metaKey) return
    const last = this.element.children.length - 1
    const at = Number(row.dataset.step)
    const moves = { ArrowDown: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last }
    if (event.key in moves) this.row(moves[event.key]).focus()
    else if (event.key === "Enter" || event.key === " ") this.choose(at)
    else return
    event.preventDefault()
    event.stopPropagation() // the canvas has its own use for these keys
  }
}

function drawRow(step, rail, found, { current, main }) {
  const picture = found
    ? element("img", { src: pictureAddress(found.picture), alt: "", loading: "lazy", decoding: "async", draggable: "false" })
    : element("span", { class: "reedit-gone" })
  const changed = step.changed && text("changed", { share: step.changed })
  const notes = [step.tool !== step.label ? step.tool : "", changed].filter(Boolean)
  const words = element("span", { class: "reedit-words" }, [
    element("span", { class: "reedit-label", text: nameOf(step) }),
    element("span", { class: "reedit-notes", text: notes.join(" · ") }),
  ])
  const now = current ? [element("span", { class: "reedit-badge", text: text("current") })] : []
  const badges = element("span", { class: "reedit-badges", "data-next": text("next") }, now)
  return element(
    "li",
    {
      role: "option",
      class: `reedit-step${main ? "" : " reedit-beside"}`,
      tabindex: -1,
      "data-step": step.number,
      "aria-selected": String(current),
      title: [nameOf(step), ...notes].join("\n"),
    },
    [rail, element("span", { class: "reedit-thumbnail" }, [picture]), words, badges],
  )
}
