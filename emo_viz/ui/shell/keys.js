const KNOWS_KEYS = [
  "input", "textarea", "select", "canvas", "iframe", "video", "audio",
  '[contenteditable=""]', '[contenteditable="true"]', '[data-testid="stDataFrame"]',
  ...["textbox", "searchbox", "spinbutton", "combobox", "slider", "radio", "grid", "gridcell",
      "tab", "menu", "menuitem", "tree", "dialog"].map((role) => `[role="${role}"]`),
].join(",");
const OPEN = '[role="dialog"], [data-baseweb="popover"], [data-testid="stPopoverBody"]';
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

export default function ({ data }) {
  const onKey = (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const found = data.shortcuts.find(
      (one) => one.key === event.key && one.shift === event.shiftKey);
    if (!found) return;
    const button = found.buttons
      .map((name) => document.querySelector(`.st-key-${name} button`))
      .find((one) => one && !one.disabled);
    if (!button || isWanted(event, button)) return;
    event.preventDefault();
    button.click();
  };
  const onPress = (event) => {
    const link = event.target instanceof Element && event.target.closest(LINKS);
    if (link && document.activeElement?.matches("input, textarea")) event.preventDefault();
  };
  const onInput = (event) => {
    const field = event.target;
    if (!(field instanceof HTMLTextAreaElement) || field.value.isWellFormed()) return;
    // By the element's own setter: React would not notice a value that went through its own.
    const { set } = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
    set.call(field, field.value.toWellFormed());
  };
  document.addEventListener("input", onInput, true);
  // A table keeps its Escape to itself.
  const onEscape = (event) => {
    if (event.key === "Escape" && isIn(event, '[data-testid="stDataFrame"]')) onKey(event);
  };
  document.addEventListener("keydown", onEscape, true);
  document.addEventListener("keydown", onKey);
  document.addEventListener("mousedown", onPress, true);
  return () => {
    document.removeEventListener("input", onInput, true);
    document.removeEventListener("keydown", onEscape, true);
    document.removeEventListener("keydown", onKey);
    document.removeEventListener("mousedown", onPress, true);
  };
}
