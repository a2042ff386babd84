const KNOWS_KEYS = [
  "input", "textarea", "select", "canvas", "iframe", "video", "audio",
  '[contenteditable=""]', '[contenteditable="true"]', '[data-testid="stDataFrame"]',
  ...["textbox", "searchbox", "spinbutton", "combobox", "slider", "radio", "grid", "gridcell",
      "tab", "menu", "menuitem", "tree", "dialog"].map((role) => `[role="${role}"]`),
].join(",");
const OPEN = '[role="dialog"], [data-baseweb="popover"], [data-testid="stPopoverBody"]';
const CHOSEN = '[role="listbox"] [role="option"][aria-selected="true"]';
const LINKS = '[data-testid="stPageLink"] a, [data-testid="stPageLink-NavLink"]';

// Whether what has the focus knows the key too. Escape is the page's unless something is open, and
// a drawer leaves its own buttons' keys to the page.
function isWanted(event, button) {
  if (event.key === "Escape") return document.querySelector(OPEN) !== null;
  return event.composedPath().some(
    (node) => node instanceof Element && node.matches(KNOWS_KEYS) && !isAround(node, button));
}

const isIn = (event, selector) => event.composedPath().some(
  (node) => node instanceof Element && node.matches(selector));
const isAround = (node, button) => node.matches('[role="dialog"]') && node.contains(button);

const TYPING = [
  "input:not([type=radio]):not([type=checkbox])", "textarea", "select",
  '[contenteditable=""]', '[contenteditable="true"]',
  ...["textbox", "searchbox", "combobox", "dialog"].map((role) => `[role="${role}"]`),
].join(",");
// While a page opens: who waits for its field, and for how long.
let searching = null;
const LONGEST = 20000;

function focusSearch(field) {
  const found = document.querySelector(`.st-key-${field} input`);
  found?.focus();
  found?.select();
  return Boolean(found);
}

// The view of the search page that has the field is its first one.
function showField(view) {
  document.querySelector(`.st-key-${view} button[aria-checked="false"]:first-of-type`)?.click();
}

// The field of the search page, or that page where this is another one.
function search({ field, view, page }) {
  if (focusSearch(field)) return;
  focusOnceThere(field, view);
  if (document.querySelector(`.st-key-${view}`)) {
    showField(view);
    return;
  }
  // A link to where one is has no address of its own.
  [...document.querySelectorAll(LINKS)]
    .find((link) => link.getAttribute("href") && new URL(link.href).pathname.endsWith(`/${page}`))
    ?.click();
}

function focusOnceThere(field, view) {
  const until = performance.now() + LONGEST;
  searching?.disconnect();
  searching = new MutationObserver(() => {
    if (performance.now() < until && !focusSearch(field)) showField(view);
    else searching.disconnect();
  });
  searching.observe(document.body, { childList: true, subtree: true });
}

// A list of tokens of which one is chosen; components keep theirs in a tree of their own.
function chosenList() {
  const main = document.querySelector('[data-testid="stMain"]');
  const trees = [...(main?.querySelectorAll("*") ?? [])].map((node) => node.shadowRoot);
  const chosen = [main, ...trees].map((tree) => tree?.querySelector(CHOSEN)).find(Boolean);
  return chosen?.closest('[role="listbox"]') ?? null;
}

// As if the list had the focus: it alone knows how to let go.
function letGo(event) {
  const list = event.key === "Escape" && !event.shiftKey && !isWanted(event) && chosenList();
  if (!list) return;
  event.preventDefault();
  list.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
}

// A dialog hears the keys inside it alone, and a button that has saved a table lets go of the focus.
function closeDialog(event) {
  if (event.key !== "Escape" || document.activeElement !== document.body) return false;
  const close = document.querySelector('[role="dialog"] > button[aria-label="Close"]');
  close?.click();
  return Boolean(close);
}

export default function ({ data, parentElement }) {
  parentElement.emoVizUndo?.(); // of an earlier run of this: Streamlit calls the last one's alone
  const onKey = (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (closeDialog(event)) return;
    if (event.key === "/" && !isIn(event, TYPING) && !document.querySelector(OPEN)) {
      event.preventDefault();
      search(data.search);
      return;
    }
    const found = data.shortcuts.find(
      (one) => one.key === event.key && one.shift === event.shiftKey);
    if (!found) return;
    const button = found.buttons
      .map((name) => document.querySelector(`.st-key-${name} button`))
      .find((one) => one && !one.disabled);
    if (!button) {
      letGo(event);
      return;
    }
    if (isWanted(event, button)) return;
    event.preventDefault();
    button.click();
  };
  const onPress = (event) => {
    const link = event.target instanceof Element && event.target.closest(LINKS);
    if (link && document.activeElement?.matches("input, textarea")) event.preventDefault();
  };
  // A popover closes at a click beside it, and may have the page run again for that; of a click on a
  // link it does not hear, for that run would overtake the link.
  const onClick = (event) => {
    const link = event.target instanceof Element && event.target.closest(LINKS);
    const open = document.querySelector('[data-testid="stPopoverBody"]');
    if (link && open && !open.contains(link)) event.stopPropagation();
  };
  const onInput = (event) => {
    const field = event.target;
    if (!(field instanceof HTMLTextAreaElement) || field.value.isWellFormed()) return;
    // By the element's own setter: React would not notice a value that went through its own.
    const { set } = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
    set.call(field, field.value.toWellFormed());
  };
  window.emoVizListens = true;
  document.addEventListener("input", onInput, true);
  // A table keeps its Escape to itself.
  const onEscape = (event) => {
    if (event.key === "Escape" && isIn(event, '[data-testid="stDataFrame"]')) onKey(event);
  };
  document.addEventListener("keydown", onEscape, true);
  document.addEventListener("keydown", onKey);
  document.addEventListener("mousedown", onPress, true);
  document.body.addEventListener("click", onClick);
  return (parentElement.emoVizUndo = () => {
    document.removeEventListener("input", onInput, true);
    document.removeEventListener("keydown", onEscape, true);
    document.removeEventListener("keydown", onKey);
    document.removeEventListener("mousedown", onPress, true);
    document.body.removeEventListener("click", onClick);
  });
}
