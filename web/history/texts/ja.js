export default {
  "title": "編集履歴",
  "tooltip": "編集履歴：選択したノードのセッションの各ステップ",
  "source": "ソース",
  "edits": {
    "other": "{count} 回の編集"
  },
  "changed": "{share} 変化",
  "current": "現在",
  "next": "次の実行",
  "steps": "セッションのステップ。Enter でチェックアウトします。",
  "compareWith": "比較対象",
  "stepBefore": "一つ前のステップ",
  "theSource": "ソース",
  "compareTwo": "「{before}」と「{after}」を比較",
  "sliderAt": "前 {before} %、後 {after} %",
  "rough": "大まかな色（デコードするまで）",
  "noPicture": "このステップの画像はまだありません。ReEdit デコードか ReEdit タイムラインで作られます。",
  "pictureGone": "画像はもうありません。ComfyUI が一時ファイルを消去しました。もう一度グラフを実行してください。",
  "nothing": "表示できる編集セッションがありません。セッションのあるグラフを実行し、潜在変数がセッションを含むノード（ReEdit コミット、ReEdit チェックアウト、ReEdit タイムラインなど）を選択してください。",
  "isSet": "「{checkout}」（ノード {id}）を「{step}」に設定しました。グラフを実行すると、そこに移動します。",
  "noCheckout": "このステップを含む潜在変数を受け取る ReEdit チェックアウトがありません。移動するには追加してください。セッションの潜在変数を入力します。",
  "add": "ReEdit チェックアウトを追加",
  "noLatent": "このノードにつながる潜在変数がありません。セッションの潜在変数がある場所に、手動で ReEdit チェックアウトを追加してください。"
}
