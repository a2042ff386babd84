// What a group shows lives on the window: its pictures and texts may be drawn before or after this.
const looks = () => (window.emoVizLooks ??= {});

// The arrow keys walk through tokens: one walk is one step of the browser's history.
function walksAreOneStep() {
  if (window.emoVizWalk) return;
  const walk = (window.emoVizWalk = { steps: 0 });
  const push = history.pushState.bind(history);
  history.pushState = (...given) =>
    walk.steps > 1 ? history.replaceState(...given) : push(...given);
  const other = (event) => {
    if (!event.isTrusted || !/^Arrow|^Home$|^End$/.test(event.key ?? "") || event.shiftKey) {
      walk.steps = 0;
    }
  };
  document.addEventListener("keydown", other, true);
  document.addEventListener("pointerdown", other, true);
}

export default function ({ data }) {
  walksAreOneStep();
  const said = JSON.stringify([data.selected, data.followed]);
  const look = (looks()[data.group] ??= {});
  // The same word again is no news: the visitor may have moved on since it was first said.
  if (look.said === said && look.pending) return;
  look.said = said;
  look.followed = data.followed;
  if (!look.pending) look.selected = data.selected;
  document.dispatchEvent(new CustomEvent("emo-viz-look", { detail: { group: data.group } }));
}
