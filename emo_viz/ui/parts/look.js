// What a group shows lives on the window: its pictures and texts may be drawn before or after this.

export default function ({ data }) {
  const look = ((window.emoVizLooks ??= {})[data.group] ??= {});
  // The visitor may have moved on while the server answered: theirs is the newer choice.
  look.n = Math.max(look.n ?? 0, data.heard);
  if (data.heard < look.n) return;
  look.followed = data.followed;
  look.selected = data.selected;
  document.dispatchEvent(new CustomEvent("emo-viz-look", { detail: { group: data.group } }));
}
