export default {
  "title": "Historique d'édition",
  "tooltip": "Historique d'édition : les étapes de la session du nœud sélectionné",
  "source": "source",
  "edits": {
    "one": "{count} édition",
    "other": "{count} éditions"
  },
  "changed": "{share} modifiés",
  "current": "actuelle",
  "next": "prochaine exécution",
  "steps": "Étapes de la session. Entrée : aller à l'étape.",
  "compareWith": "Comparer avec",
  "stepBefore": "l'étape d'avant",
  "theSource": "la source",
  "compareTwo": "Comparer {before} avec {after}",
  "sliderAt": "{before} % avant, {after} % après",
  "rough": "couleurs approximatives, avant décodage",
  "noPicture": "Pas encore d'image de cette étape. ReEdit Décoder ou ReEdit Chronologie en fait une.",
  "pictureGone": "L'image a disparu : ComfyUI a effacé ses fichiers temporaires. Exécutez le graphe à nouveau.",
  "nothing": "Aucune session à montrer. Exécutez un graphe avec une session, et sélectionnez un nœud dont le latent la contient : ReEdit Valider, ReEdit Aller à une étape ou ReEdit Chronologie, par exemple.",
  "isSet": "« {checkout} » (nœud {id}) est réglé sur « {step} ». Exécutez le graphe pour y aller.",
  "noCheckout": "Aucun nœud ReEdit Aller à une étape ne reçoit un latent qui contient cette étape. Ajoutez-en un pour y aller : il prend le latent de la session.",
  "add": "Ajouter ReEdit Aller à une étape",
  "noLatent": "Aucun latent ne mène à ce nœud. Ajoutez ReEdit Aller à une étape à la main, là où se trouve le latent de la session."
}
