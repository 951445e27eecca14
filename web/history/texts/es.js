export default {
  "title": "Historial de edición",
  "tooltip": "Historial de edición: los pasos de la sesión del nodo seleccionado",
  "source": "fuente",
  "edits": {
    "one": "{count} edición",
    "other": "{count} ediciones"
  },
  "changed": "{share} cambiado",
  "current": "actual",
  "next": "próxima ejecución",
  "steps": "Pasos de la sesión. Intro va a uno de ellos.",
  "compareWith": "Comparar con",
  "stepBefore": "el paso anterior",
  "theSource": "la fuente",
  "compareTwo": "Comparar {before} con {after}",
  "sliderAt": "{before} % antes, {after} % después",
  "rough": "colores aproximados, sin decodificar",
  "noPicture": "Aún no hay imagen de este paso. ReEdit Decodificar o ReEdit Línea de tiempo hace una.",
  "pictureGone": "La imagen ya no está: ComfyUI ha borrado sus archivos temporales. Ejecuta el grafo de nuevo.",
  "nothing": "No hay ninguna sesión que mostrar. Ejecuta un grafo con una sesión y selecciona un nodo cuyo latente la contenga: ReEdit Confirmar, ReEdit Ir a un paso o ReEdit Línea de tiempo, por ejemplo.",
  "isSet": "«{checkout}» (nodo {id}) está puesto en «{step}». Ejecuta el grafo para ir allí.",
  "noCheckout": "Ningún nodo ReEdit Ir a un paso recibe un latente que contenga este paso. Añade uno para ir allí: toma el latente de la sesión.",
  "add": "Añadir ReEdit Ir a un paso",
  "noLatent": "Ningún latente lleva a este nodo. Añade ReEdit Ir a un paso a mano donde esté el latente de la sesión."
}
