// The visitor's steps on a page: which of the browser's places are theirs, and what lies beside them.
const TOUCHES = ["pointerdown", "keydown"];
const KEPT = "emo-viz-places";

// The browser's places, for not every browser tells them: addresses by number, of which each place
// has its own in its state.
class Places {
  constructor() {
    try {
      this.list = JSON.parse(sessionStorage.getItem(KEPT)) ?? [];
    } catch { // not allowed, as in a frame of another site
      this.list = [];
    }
    // Where the steps begin: on a busy machine a page writes its address before this runs. A page
    // that is reloaded, or come back to, has steps of before that count.
    this.first = this.at === undefined ? history.length - 1 : 0;
    this.number();
    this.arrive();
    window.addEventListener("popstate", () => this.arrive());
  }

  get at() { return history.state?.emoViz; }

  get before() { return this.at > this.first ? this.list[this.at - 1] : null; }

  get after() { return this.list[this.at + 1]; }

  number() {
    const push = history.pushState.bind(history), replace = history.replaceState.bind(history);
    history.replaceState = (state, title, url) => {
      replace({ ...state, emoViz: this.at ?? history.length - 1 }, title, url);
      this.keep();
    };
    history.pushState = (state, title, url) => {
      const next = this.at + 1;
      push({ ...state, emoViz: next }, title, url);
      if (this.at === next) this.list.length = next; // nothing lies after a new place
      this.keep();
    };
  }

  arrive() {
    if (this.at !== undefined) return this.keep();
    this.list.length = history.length - 1; // a place that was not written here is a new one
    history.replaceState(history.state, "");
  }

  keep() {
    this.list[this.at] = location.href;
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(this.list));
    } catch { // they are known until the page is loaded anew
    }
    document.dispatchEvent(new CustomEvent("emo-viz-steps"));
  }
}

// What a page writes into its own address before the visitor has touched it is no step of theirs.
// While a drawer is open, all that is chosen in it is the one step that opened it.
// A page that the server turns to comes in two steps, the first of which is the page before with the
// parameters of the next: the second takes its place.
function onlyTheirSteps(drawers) {
  if (window.emoVizSteps) return;
  const open = (url) => drawers.some((name) => new URL(url, location.href).searchParams.has(name));
  const seen = (window.emoVizSteps = { touched: false, written: null, places: new Places() });
  const push = history.pushState;
  history.pushState = (state, title, url) => {
    const then = new URL(url ?? location.href, location.href);
    if (then.pathname !== location.pathname) {
      const announced = seen.written === then.search;
      Object.assign(seen, { touched: false, written: null });
      return announced ? history.replaceState(state, title, url) : push(state, title, url);
    }
    if (!seen.touched || (open(location.href) && open(then))) {
      return history.replaceState(state, title, url);
    }
    seen.written = then.search;
    return push(state, title, url);
  };
  const touch = (event) => {
    if (event.isTrusted) Object.assign(seen, { touched: true, written: null });
  };
  for (const name of TOUCHES) document.addEventListener(name, touch, true);
}

function steps() {
  const { before, after } = window.emoVizSteps.places;
  const here = (url) => Boolean(url) && new URL(url).pathname === location.pathname;
  return { undo: here(before), redo: here(after) };
}
