export default {
  "title": "編輯歷史",
  "tooltip": "編輯歷史：所選節點的工作階段的各個步驟",
  "source": "來源",
  "edits": {
    "other": "{count} 次編輯"
  },
  "changed": "已改變 {share}",
  "current": "目前",
  "next": "下次執行",
  "steps": "工作階段的步驟。按 Enter 取出其中一步。",
  "compareWith": "比較",
  "stepBefore": "前一步",
  "theSource": "來源",
  "compareTwo": "比較「{before}」與「{after}」",
  "sliderAt": "之前 {before} %，之後 {after} %",
  "rough": "粗略顏色，解碼後才準確",
  "noPicture": "這一步還沒有圖像。ReEdit Decode 或 ReEdit Timeline 會產生它。",
  "pictureGone": "圖像已不存在：ComfyUI 清除了暫存檔。請再次執行工作流程。",
  "nothing": "沒有可顯示的編輯工作階段。請執行帶有工作階段的工作流程，並選取其 Latent 帶有工作階段的節點，例如 ReEdit Commit、ReEdit Checkout 或 ReEdit Timeline。",
  "isSet": "「{checkout}」（節點 {id}）已設為「{step}」。執行工作流程即可前往該步。",
  "noCheckout": "沒有任何 ReEdit Checkout 節點得到包含這一步的 Latent。要前往這一步，請新增一個：它接收工作階段的 Latent。",
  "add": "新增 ReEdit Checkout",
  "noLatent": "沒有 Latent 連到這個節點。請在工作階段的 Latent 處手動新增 ReEdit Checkout。"
}
