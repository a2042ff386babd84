// A few bytes in place of whole maps: which points are selected and which are highlighted.
export default function ({ data }) {
  document.emoVizMaps = { ...document.emoVizMaps, [data.channel]: data };
  document.dispatchEvent(new CustomEvent("emo-viz-maps"));
}
