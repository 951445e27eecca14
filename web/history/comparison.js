// Two pictures on one another, and a line to draw across them.
import { element } from "./elements.js"
import { pictureAddress } from "./pictures.js"
import { text } from "./texts.js"

const MIDDLE = 50

export class Comparison {
  constructor() {
    this.before = element("img", { alt: "", draggable: "false", decoding: "async" })
    this.after = element("img", { alt: "", draggable: "false", decoding: "async", class: "reedit-after" })
    this.slider = element("input", { type: "range", min: 0, max: 100, step: 1, oninput: () => this.draw() })
    this.names = [element("span", { class: "reedit-left" }), element("span", { class: "reedit-right" })]
    const line = element("div", { class: "reedit-line", "aria-hidden": "true" }, [element("div", { class: "reedit-handle" })])
    this.missing = element("div", { class: "reedit-missing" })
    this.note = element("div", { class: "reedit-note", text: text("rough") })
    // All within the frame: were the comparison to change its height, the row under the pointer would be another.
    const parts = [this.before, this.after, line, ...this.names, this.note, this.missing, this.slider]
    this.element = this.frame = element("div", { class: "reedit-frame" }, parts)
    this.frame.addEventListener("pointermove", (event) => this.follow(event))
    for (const image of [this.before, this.after]) {
      image.addEventListener("load", () => this.fit(image))
      image.addEventListener("error", () => this.lose(image))
    }
    this.slider.value = MIDDLE
    this.draw()
  }

  /** Show two steps with their pictures; either may have none. */
  show(before, after) {
    const both = Boolean(before.picture && after.picture) && before.step !== after.step
    const one = after.picture ?? before.picture
    this.frame.classList.toggle("reedit-single", !both)
    this.set(this.before, before.picture ?? one)
    this.set(this.after, after.picture ?? one)
    this.names[0].textContent = both ? nameOf(before.step) : ""
    this.names[1].textContent = both ? nameOf(after.step) : ""
    this.slider.disabled = !both
    this.slider.setAttribute("aria-label", text("compareTwo", { before: nameOf(before.step), after: nameOf(after.step) }))
    this.missing.hidden = Boolean(one)
    this.missing.textContent = text("noPicture")
    this.note.hidden = !(one && (after.rough || (both && before.rough)))
    this.draw()
  }

  set(image, picture) {
    const address = picture ? pictureAddress(picture) : ""
    if (image.getAttribute("src") === address) return
    image.hidden = !address
    if (address) image.src = address
    else image.removeAttribute("src")
  }

  /** A thumbnail that the host no longer has. */
  lose(image) {
    image.hidden = true
    if (!this.before.hidden || !this.after.hidden) return
    this.frame.classList.add("reedit-single")
    this.note.hidden = true
    this.missing.hidden = false
    this.missing.textContent = text("pictureGone")
  }

  fit(image) {
    image.hidden = false
    if (image === this.after) this.frame.style.setProperty("--reedit-ratio", image.naturalWidth / image.naturalHeight)
  }

  follow(event) {
    if (this.slider.disabled) return
    const { left, width } = this.frame.getBoundingClientRect()
    this.slider.value = Math.round((100 * (event.clientX - left)) / width)
    this.draw()
  }

  draw() {
    this.frame.style.setProperty("--reedit-cut", `${this.slider.value}%`)
    const before = Number(this.slider.value)
    this.slider.setAttribute("aria-valuetext", text("sliderAt", { before, after: 100 - before }))
  }
}

export const nameOf = (step) => (step.parent === null ? text("source") : `${step.number}. ${step.label || step.tool}`)
