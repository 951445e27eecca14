export default {
  "title": "编辑历史",
  "tooltip": "编辑历史：所选节点的会话的各个步骤",
  "source": "源图",
  "edits": {
    "other": "{count} 次编辑"
  },
  "changed": "已改变 {share}",
  "current": "当前",
  "next": "下次运行",
  "steps": "会话的步骤。按 Enter 检出其中一步。",
  "compareWith": "对比",
  "stepBefore": "前一步",
  "theSource": "源图",
  "compareTwo": "对比“{before}”与“{after}”",
  "sliderAt": "之前 {before} %，之后 {after} %",
  "rough": "粗略颜色，解码后才准确",
  "noPicture": "这一步还没有图像。ReEdit 解码或 ReEdit 时间线会生成它。",
  "pictureGone": "图像已不存在：ComfyUI 清除了临时文件。请再次运行工作流。",
  "nothing": "没有可显示的编辑会话。请运行带有会话的工作流，并选择其 Latent 带有会话的节点，例如 ReEdit 提交、ReEdit 检出或 ReEdit 时间线。",
  "isSet": "“{checkout}”（节点 {id}）已设为“{step}”。运行工作流即可转到该步。",
  "noCheckout": "没有哪个 ReEdit 检出节点得到包含这一步的 Latent。要转到这一步，请添加一个：它接收会话的 Latent。",
  "add": "添加 ReEdit 检出",
  "noLatent": "没有 Latent 连到这个节点。请在会话的 Latent 处手动添加 ReEdit 检出。"
}
