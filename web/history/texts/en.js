export default {
  "title": "Edit History",
  "tooltip": "Edit History: the steps of the selected node's session",
  "source": "source",
  "edits": {
    "one": "{count} edit",
    "other": "{count} edits"
  },
  "changed": "{share} changed",
  "current": "current",
  "next": "next run",
  "steps": "Steps of the session. Enter checks one out.",
  "compareWith": "Compare with",
  "stepBefore": "the step before",
  "theSource": "the source",
  "compareTwo": "Compare {before} with {after}",
  "sliderAt": "{before} % before, {after} % after",
  "rough": "rough colours, until decoded",
  "noPicture": "No picture of this step yet. ReEdit Decode or ReEdit Timeline makes one.",
  "pictureGone": "The picture is gone: the host has cleared its temporary files. Run the graph again.",
  "nothing": "No edit session to show. Run a graph with a session, and select a node whose latent holds it: ReEdit Commit, ReEdit Checkout or ReEdit Timeline, for example.",
  "isSet": "“{checkout}” (node {id}) is set to “{step}”. Run the graph to go there.",
  "noCheckout": "No ReEdit Checkout gets a latent that holds this step. Add one to go there: it takes the session's latent.",
  "add": "Add ReEdit Checkout",
  "noLatent": "No latent leads to this node. Add ReEdit Checkout by hand where the session's latent is."
}
