// The one entry script. The modules below history/ only export; the page imports them too, and nothing happens.
import { app } from "../../scripts/app.js"
import { HistoryPanel } from "./history/panel.js"
import { text } from "./history/texts.js"

app.registerExtension({
  name: "ReEdit.History",
  setup() {
    const panel = new HistoryPanel()
    app.extensionManager.registerSidebarTab({
      id: "reedit-history",
      icon: "mdi mdi-source-branch",
      // Asked for again by the page when its language changes. Keys would be shown as they are in languages that we lack.
      get title() {
        return text("title")
      },
      get tooltip() {
        return text("tooltip")
      },
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
