// Where the host serves a thumbnail.
import { api } from "../../../scripts/api.js"

/** The address of a picture, { filename, subfolder, type }. Its name says what it shows, so the browser may keep it. */
export function pictureAddress(picture) {
  return api.apiURL(`/view?${new URLSearchParams(picture)}`)
}
