export default {
  "title": "편집 기록",
  "tooltip": "편집 기록: 선택한 노드의 세션 단계",
  "source": "원본",
  "edits": {
    "other": "편집 {count}회"
  },
  "changed": "{share} 바뀜",
  "current": "현재",
  "next": "다음 실행",
  "steps": "세션의 단계입니다. Enter를 누르면 체크아웃합니다.",
  "compareWith": "비교 대상",
  "stepBefore": "앞 단계",
  "theSource": "원본",
  "compareTwo": "‘{before}’와(과) ‘{after}’ 비교",
  "sliderAt": "이전 {before} %, 이후 {after} %",
  "rough": "대략적인 색(디코딩 전)",
  "noPicture": "이 단계의 이미지가 아직 없습니다. ReEdit 디코드나 ReEdit 타임라인이 만듭니다.",
  "pictureGone": "이미지가 없어졌습니다. ComfyUI가 임시 파일을 지웠습니다. 그래프를 다시 실행하세요.",
  "nothing": "표시할 편집 세션이 없습니다. 세션이 있는 그래프를 실행하고, 잠재 데이터에 세션이 담긴 노드(예: ReEdit 커밋, ReEdit 체크아웃, ReEdit 타임라인)를 선택하세요.",
  "isSet": "‘{checkout}’(노드 {id}): ‘{step}’(으)로 설정했습니다. 그래프를 실행하면 그 단계로 이동합니다.",
  "noCheckout": "이 단계가 담긴 잠재 데이터를 받는 ReEdit 체크아웃이 없습니다. 이동하려면 하나를 추가하세요. 세션의 잠재 데이터를 입력으로 받습니다.",
  "add": "ReEdit 체크아웃 추가",
  "noLatent": "이 노드로 이어지는 잠재 데이터가 없습니다. 세션의 잠재 데이터가 있는 곳에 ReEdit 체크아웃을 직접 추가하세요."
}
