// What a group shows lives on the window: its pictures and texts may be drawn before or after this.

// The arrow keys walk through tokens: one walk, however long, is one step of the browser's history.
// Whoever walks says so with every key; whatever else the visitor does ends the walk.
class Walk {
  on = false;
  was = false;
  written = false; // whether the walk has its step
  back = null; // the address before what is taken back

  // What was chosen last is taken back: its step goes, instead of another one that undoes it. That
  // step may not have come yet.
  takesBack(url) {
    this.back = url;
  }

  isBack(url) {
    const then = new URL(url, location.href).href;
    return then === this.back && window.emoVizSteps?.places.before === then;
  }

  goesOn() {
    if (!this.was) this.written = false;
    this.on = true;
  }

  ends() {
    this.was = this.on;
    this.on = false;
    this.back = null;
  }
}

const FIELD = 'input[type="number"]'; // the arrow keys walk through its numbers

function walksAreOneStep() {
  if (window.emoVizWalk) return;
  const walk = (window.emoVizWalk = new Walk());
  const push = history.pushState.bind(history);
  history.pushState = (...given) => {
    if (walk.isBack(given[2] ?? location.href)) return history.back();
    if (walk.on && walk.written) return history.replaceState(...given);
    walk.written = walk.on;
    return push(...given);
  };
  document.addEventListener("keydown", (event) => {
    walk.ends();
    const arrow = event.key === "ArrowUp" || event.key === "ArrowDown";
    if (arrow && event.target.matches?.(FIELD)) walk.goesOn();
  }, true);
  document.addEventListener("pointerdown", () => walk.ends(), true);
  window.addEventListener("popstate", () => { walk.on = walk.was = false; });
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
