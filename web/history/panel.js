// The sidebar tab: the session of the selected node's latent, what each step changed, and the way back to any of them.
import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { addCheckout, findCheckout, setCheckout, stepToCome } from "./checkout.js"
import { Comparison, nameOf } from "./comparison.js"
import { readEarlier } from "./earlier.js"
import { element } from "./elements.js"
import { collectPictures, findSession, selectedNode } from "./session.js"
import { Steps } from "./steps.js"
import { language, text } from "./texts.js"

const SOURCE = 0
const LOOK = 150 // milliseconds

export class HistoryPanel {
  static current // the one that is open

  constructor() {
    this.loadStyle()
    this.order = new Map()
    api.addEventListener("executed", ({ detail }) => this.hear(detail))
  }

  /** A node has run, or was not run again since nothing changed. Subgraphs' nodes are left to the page's own order. */
  hear({ node, display_node, output }) {
    if (!output?.reedit_session) return
    this.order.set(String(display_node ?? node), performance.now())
    this.refreshSoon()
  }

  loadStyle() {
    const address = new URL("./history.css", import.meta.url).href
    document.head.append(element("link", { rel: "stylesheet", href: address }))
  }

  /**
   * The page tells nobody of its language and its workflow, the classic canvas of its selection and Nodes 2.0 not, a widget
   * not of what is typed into it: so the panel looks for itself while it is open.
   */
  watch() {
    if (language() !== this.language) return this.open(this.element.parentElement)
    this.recall()
    const now = [app.canvas.graph, selectedNode(), this.widget?.value]
    if (now.every((one, place) => one === this.seen?.[place])) return
    this.seen = now
    this.refreshSoon()
  }

  /** Ask the host, once for each workflow that is opened, what its nodes told before. */
  async recall() {
    if (this.asked === app.rootGraph.id) return
    this.asked = app.rootGraph.id
    await readEarlier()
    this.refreshSoon()
  }

  /** Called by the page when the tab is shown, and again with the same container whenever it draws itself anew. */
  open(container) {
    if (this.element?.parentElement === container && this.language === language()) return
    HistoryPanel.current = this
    this.language = language()
    this.comparison = new Comparison()
    this.steps = new Steps((number) => this.look(number), (number) => this.checkOut(number))
    this.source = element("span", { class: "reedit-from" })
    this.status = element("div", { class: "reedit-status", role: "status" })
    this.empty = element("p", { class: "reedit-empty", text: text("nothing") })
    this.against = this.makeChoice()
    const header = element("header", { class: "reedit-header" }, [
      element("span", { class: "reedit-title", text: text("title") }),
      this.source,
    ])
    this.top = element("div", { class: "reedit-top" }, [this.comparison.element, this.against])
    this.element = element("section", { class: "reedit-history", lang: this.language, "aria-label": text("title") }, [
      header,
      this.empty,
      this.top,
      this.steps.element,
      this.status,
    ])
    container.classList.add("reedit-tab")
    container.replaceChildren(this.element)
    this.shown = this.asked = undefined
    this.refresh()
    clearInterval(this.watching)
    this.watching = setInterval(() => this.watch(), LOOK)
  }

  close() {
    clearInterval(this.watching)
    HistoryPanel.current = undefined
    this.element?.remove()
    this.element = this.shown = undefined
  }

  /** What a step is compared with: two buttons. */
  makeChoice() {
    this.fromSource = false
    const choice = (key, fromSource) =>
      element("button", {
        type: "button",
        text: text(key),
        "aria-pressed": String(this.fromSource === fromSource),
        onclick: ({ currentTarget }) => {
          this.fromSource = fromSource
          for (const other of currentTarget.parentElement.querySelectorAll("button"))
            other.setAttribute("aria-pressed", String(other === currentTarget))
          this.look(this.looked)
        },
      })
    return element("div", { class: "reedit-against", role: "group", "aria-label": text("compareWith") }, [
      element("span", { text: text("compareWith") }),
      choice("stepBefore", false),
      choice("theSource", true),
    ])
  }

  /** Once for all that happens before the page is drawn again. */
  refreshSoon() {
    if (!this.element || this.waiting) return
    this.waiting = requestAnimationFrame(() => {
      this.waiting = undefined
      if (this.element) this.refresh()
    })
  }

  refresh() {
    const found = findSession(this.node, this.order)
    this.node = found?.node
    this.empty.hidden = Boolean(found)
    for (const part of [this.top, this.steps.element, this.status]) part.hidden = !found
    this.source.textContent = found ? this.describe(found) : ""
    if (!found) {
      this.shown = undefined
      return
    }
    const pictures = collectPictures()
    const now = JSON.stringify([found.node.id, found.session, [...pictures]])
    if (now === this.shown) return this.markNext()
    this.shown = now
    this.session = found.session
    this.pictures = pictures
    this.steps.show(found.session, pictures)
    // Not before the page has given the panel its place.
    requestAnimationFrame(() => this.steps.tabStop?.scrollIntoView({ block: "nearest" }))
    this.say()
    this.markNext()
  }

  describe({ node, session }) {
    return `${text("edits", { count: session.steps.length - 1 })} · ${node.title || node.type}`
  }

  look(number) {
    const step = this.session.steps[number]
    if (!step) return
    this.looked = number
    const before = this.session.steps[this.fromSource ? SOURCE : (step.parent ?? SOURCE)]
    const withPicture = (one) => ({ step: one, ...this.pictures.get(one.name) })
    this.comparison.show(withPicture(before), withPicture(step))
  }

  checkOut(number) {
    const step = this.session.steps[number]
    const found = findCheckout(this, step)
    if (!found) return this.offerCheckout(step)
    setCheckout(found)
    this.markNext()
    const { title, type, id } = found.checkout
    this.say(text("isSet", { checkout: title || type, id, step: nameOf(step) }))
  }

  offerCheckout(step) {
    const add = element("button", {
      type: "button",
      text: text("add"),
      onclick: () => {
        if (addCheckout(this.node)) this.checkOut(step.number)
        else this.say(text("noLatent"))
      },
    })
    this.say(`${text("noCheckout")} `, add)
  }

  /** Mark the step that the Checkout node of this session will go to in the next run. */
  markNext() {
    const { widget, step } = stepToCome(this)
    this.widget = widget
    this.steps.mark(step?.number)
  }

  say(...parts) {
    this.status.replaceChildren(...parts)
    this.status.hidden = !parts.length
  }
}
