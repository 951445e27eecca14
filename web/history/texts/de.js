export default {
  "title": "Bearbeitungsverlauf",
  "tooltip": "Bearbeitungsverlauf: die Schritte der Sitzung des ausgewählten Nodes",
  "source": "Quelle",
  "edits": {
    "one": "{count} Bearbeitung",
    "other": "{count} Bearbeitungen"
  },
  "changed": "{share} geändert",
  "current": "aktuell",
  "next": "nächster Lauf",
  "steps": "Schritte der Sitzung. Die Eingabetaste ruft einen auf.",
  "compareWith": "Vergleichen mit",
  "stepBefore": "dem Schritt davor",
  "theSource": "der Quelle",
  "compareTwo": "{before} mit {after} vergleichen",
  "sliderAt": "{before} % vorher, {after} % nachher",
  "rough": "grobe Farben, solange nicht dekodiert",
  "noPicture": "Von diesem Schritt gibt es noch kein Bild. ReEdit Dekodieren oder ReEdit Zeitleiste macht eines.",
  "pictureGone": "Das Bild ist weg: ComfyUI hat seine temporären Dateien gelöscht. Führe den Graphen noch einmal aus.",
  "nothing": "Keine Sitzung zu zeigen. Führe einen Graphen mit einer Sitzung aus und wähle einen Node, dessen Latent sie enthält: zum Beispiel ReEdit Festhalten, ReEdit Schritt aufrufen oder ReEdit Zeitleiste.",
  "isSet": "„{checkout}“ (Node {id}) steht auf „{step}“. Führe den Graphen aus, um dorthin zu gehen.",
  "noCheckout": "Kein Node ReEdit Schritt aufrufen bekommt ein Latent, das diesen Schritt enthält. Füge einen hinzu, um dorthin zu gehen: Er nimmt das Latent der Sitzung.",
  "add": "ReEdit Schritt aufrufen hinzufügen",
  "noLatent": "Zu diesem Node führt kein Latent. Füge ReEdit Schritt aufrufen von Hand dort hinzu, wo das Latent der Sitzung ist."
}
