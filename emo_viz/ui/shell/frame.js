// Copy link, undo, redo, present; says the page's headline when it changes; folds the side bar.
const NARROW = 900, SAID_MS = 4000, HEARD_MS = 600;
const SVG = "http://www.w3.org/2000/svg";
const FIELD = 'input, textarea, select, [contenteditable]:not([contenteditable="false"])';
const FOLD = '[data-testid="stSidebarCollapseButton"] button';
const UNFOLD = '[data-testid="stExpandSidebarButton"]'; // of a bar that is folded alone
const ICONS = {
  copy: "M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 6 6l1-1",
  undo: "M9 14 4 9l5-5M4 9h10a6 6 0 0 1 0 12h-3",
  redo: "m15 14 5-5-5-5M20 9H10a6 6 0 0 0 0 12h3",
  present: "M3 4h18M5 4v11h14V4M12 15v3m-4 3 4-3 4 3",
};

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // not allowed, or not a secure address
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

function button(root, name, label, words) {
  const made = document.createElement("button"), icon = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  made.type = "button";
  made.dataset.name = name;
  made.title = label;
  made.setAttribute("aria-label", label);
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  icon.append(path);
  made.append(icon);
  if (words) made.append(Object.assign(document.createElement("span"), { textContent: words }));
  root.append(made);
  return made;
}

function build(root) {
  return {
    undo: button(root, "undo", "Undo the last choice (Ctrl+Z)", ""),
    redo: button(root, "redo", "Redo it (Ctrl+Shift+Z)", ""),
    copy: button(root, "copy", "Copy link to this view", "Copy link"),
    present: button(root, "present", "Present in large type (P)", "Present"),
  };
}

function press(what) {
  const button = document.querySelector(what);
  button?.click();
  return button !== null;
}

// Streamlit has no way to ask for a side bar that is folded on a narrow window alone: it goes by the
// window's width until the visitor folds or opens it.
function foldByWidth() {
  if (window.emoVizFolded) return;
  window.emoVizFolded = true;
  const narrow = window.matchMedia(`(max-width: ${NARROW}px)`);
  const follow = () => press(narrow.matches ? FOLD : UNFOLD);
  const begin = () => !narrow.matches || press(FOLD);
  narrow.addEventListener("change", follow);
  document.addEventListener("click", (event) => {
    const theirs = event.isTrusted && event.target.closest(`${FOLD}, ${UNFOLD}`);
    if (theirs) narrow.removeEventListener("change", follow);
  }, true);
  if (begin()) return;
  const watch = new MutationObserver(() => begin() && watch.disconnect()); // the bar may come later
  watch.observe(document.body, { subtree: true, childList: true });
}

const headline = () => document.querySelector('[data-testid="stMain"] :is(h2, h3, h4)')?.textContent ?? "";

// What changes the first sentence of a page is its result: it is read out, once it is at rest.
function tellHeadline(heard) {
  heard.told ??= headline(); // kept: Streamlit may call this again before the answer is told
  let waiting = null;
  const tell = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const now = headline();
      if (now && heard.told && now !== heard.told) heard.textContent = now;
      heard.told = now || heard.told;
    }, HEARD_MS);
  };
  const watch = new MutationObserver(tell);
  tell();
  // A visitor may act before the page has come to rest: what stands there then is what changes.
  const before = () => { heard.told ||= headline(); };
  for (const name of TOUCHES) document.addEventListener(name, before, true);
  const main = document.querySelector('[data-testid="stMain"]');
  if (main) watch.observe(main, { subtree: true, childList: true, characterData: true });
  return () => {
    clearTimeout(waiting);
    watch.disconnect();
    for (const name of TOUCHES) document.removeEventListener(name, before, true);
  };
}

function shortcut(event, buttons) {
  if (event.defaultPrevented || event.isComposing || event.altKey) return;
  if (event.composedPath().some((node) => node instanceof Element && node.matches(FIELD))) return;
  const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
  const name = control && key === "z" ? (event.shiftKey ? "redo" : "undo")
    : control && key === "y" ? "redo" : !control && key === "p" ? "present" : null;
  if (!name || buttons[name].disabled) return;
  event.preventDefault();
  buttons[name].click();
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".frame"), said = parentElement.querySelector(".said");
  if (!root.buttons) root.buttons = build(root);
  const { buttons } = root;
  const say = (text) => {
    said.textContent = text;
    clearTimeout(root.saying);
    root.saying = setTimeout(() => { said.textContent = ""; }, SAID_MS);
  };
  const enable = () => {
    const can = steps();
    buttons.undo.disabled = !can.undo;
    buttons.redo.disabled = !can.redo;
  };
  buttons.undo.onclick = () => history.back();
  buttons.redo.onclick = () => history.forward();
  buttons.copy.onclick = async () => {
    const done = await copy(location.href);
    say(done ? "The link is copied." : "The browser does not allow copying: take it from the address.");
  };
  buttons.present.onclick = () => setTriggerValue("present", true);
  buttons.present.setAttribute("aria-pressed", String(data.presenting));
  const words = data.presenting ? "End presentation" : "Present";
  buttons.present.lastChild.textContent = words;
  buttons.present.title = data.presenting ? `${words} (P)` : `${words} in large type (P)`;
  buttons.present.setAttribute("aria-label", buttons.present.title);
  onlyTheirSteps(data.drawers);
  walksAreOneStep();
  enable();
  foldByWidth();
  const onKey = (event) => shortcut(event, buttons);
  const quiet = tellHeadline(parentElement.querySelector(".heard"));
  document.addEventListener("keydown", onKey);
  document.addEventListener("emo-viz-steps", enable);
  return () => {
    quiet();
    document.removeEventListener("keydown", onKey);
    document.removeEventListener("emo-viz-steps", enable);
  };
}
