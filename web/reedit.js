// The one entry script. The modules below history/ only export; the page imports them too, and nothing happens.
import { app } from "../../scripts/app.js"
import { HistoryPanel } from "./history/panel.js"

app.registerExtension({
  name: "ReEdit.History",
  setup() {
    const panel = new HistoryPanel()
    app.extensionManager.registerSidebarTab({
      id: "reedit-history",
      icon: "mdi mdi-source-branch",
      title: "Edit History",
      tooltip: "Edit History: the steps of the selected node's session",
      type: "custom",
      render: (container) => panel.open(container),
      destroy: () => panel.close(),
    })
  },
  onNodeOutputsUpdated() {
    // Another workflow was opened, with what its nodes showed.
    HistoryPanel.current?.refreshSoon()
  },
})
