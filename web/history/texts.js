// What the panel says, in the page's language. The tests read texts/*.js as JSON.
import { app } from "../../../scripts/app.js"
import de from "./texts/de.js"
import en from "./texts/en.js"
import es from "./texts/es.js"
import fr from "./texts/fr.js"
import ja from "./texts/ja.js"
import ko from "./texts/ko.js"
import ru from "./texts/ru.js"
import zh from "./texts/zh.js"
import zhTW from "./texts/zh-TW.js"

const LANGUAGES = { de, en, es, fr, ja, ko, ru, zh, "zh-TW": zhTW }

/** The page's language, or the nearest to it that we have. */
export function language() {
  const wanted = app.extensionManager.setting.get("Comfy.Locale") ?? "en"
  return [wanted, wanted.split("-")[0], "en"].find((name) => name in LANGUAGES)
}

/** The text for a key, with values in its {places}. One that counts takes the form that the language has for that number. */
export function text(key, values = {}) {
  const now = language()
  const found = LANGUAGES[now][key]
  const form = typeof found === "string" ? found : (found[new Intl.PluralRules(now).select(values.count)] ?? found.other)
  return form.replace(/\{(\w+)\}/g, (_, name) => values[name])
}
