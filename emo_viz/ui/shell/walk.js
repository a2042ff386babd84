// The arrow keys walk through tokens and numbers: one walk, however long, is one step of the browser's
// history. A component whose keys walk says so with every key; whatever else the visitor does ends it.
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

const WALKED = 'input[type="number"], input[type="range"], [role="slider"]'; // it says nothing itself

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
    const arrow = event.key?.startsWith("Arrow");
    if (arrow && event.composedPath()[0].matches?.(WALKED)) walk.goesOn();
  }, true);
  document.addEventListener("pointerdown", () => walk.ends(), true);
  window.addEventListener("popstate", () => { walk.on = walk.was = false; });
}
