// What a group shows lives on the window: its pictures and texts may be drawn before or after this.

// The arrow keys walk through tokens: one walk, however long, is one step of the browser's history.
// Whoever walks restores `before` and counts; whatever else the visitor does ends the walk.
function walksAreOneStep() {
  if (window.emoVizWalk) return;
  const walk = (window.emoVizWalk = { steps: 0, before: 0 });
  const push = history.pushState.bind(history);
  history.pushState = (...given) =>
    walk.steps > 1 ? history.replaceState(...given) : push(...given);
  const ends = () => {
    walk.before = walk.steps;
    walk.steps = 0;
  };
  document.addEventListener("keydown", ends, true);
  document.addEventListener("pointerdown", ends, true);
}

export default function ({ data }) {
  walksAreOneStep();
  const look = ((window.emoVizLooks ??= {})[data.group] ??= {});
  // The visitor may have moved on while the server answered: theirs is the newer choice.
  look.n = Math.max(look.n ?? 0, data.heard);
  if (data.heard < look.n) return;
  look.followed = data.followed;
  look.selected = data.selected;
  document.dispatchEvent(new CustomEvent("emo-viz-look", { detail: { group: data.group } }));
}
