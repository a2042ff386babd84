"""What a page does with keys and typing: turns documents, and leaves the rest to whose it is.

A Streamlit button's own shortcut also fires while the arrow keys walk through a table, a list or a
slider. The keys here press a button by its key, unless whatever has the focus knows the key too.

The same component sees to it that a click on a link counts while a text is being typed (leaving the
field would run the page with the draft, and that run would overtake the click), and that no half
character is sent: it has no UTF-8, and the server would close the connection.
"""

import streamlit as st

# (key, with shift): the buttons it presses, of which a page has one at most.
SHORTCUTS = {
    ("ArrowLeft", False): ("routing_previous", "cluster_previous", "subset_previous"),
    ("ArrowRight", False): ("routing_next", "cluster_next", "subset_next"),
    ("ArrowUp", True): ("routing_previous_layer",),
    ("ArrowDown", True): ("routing_next_layer",),
    ("Escape", False): ("cluster_selection_clear", "cluster_tokens_clear"),
}

_JS = """
const KNOWS_KEYS = [
  "input", "textarea", "select", "canvas", "iframe", "video", "audio",
  '[contenteditable=""]', '[contenteditable="true"]', '[data-testid="stDataFrame"]',
  ...["textbox", "searchbox", "spinbutton", "combobox", "slider", "radio", "grid", "gridcell",
      "tab", "menu", "menuitem", "tree", "dialog"].map((role) => `[role="${role}"]`),
].join(",");
const OPEN = '[role="dialog"], [data-baseweb="popover"], [data-testid="stPopoverBody"]';
const LINKS = '[data-testid="stPageLink"] a, [data-testid="stPageLink-NavLink"]';

function isWanted(event) {
  return event.composedPath().some((node) => node instanceof Element && node.matches(KNOWS_KEYS));
}

export default function ({ data }) {
  const onKey = (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const found = data.shortcuts.find(
      (one) => one.key === event.key && one.shift === event.shiftKey);
    if (!found || isWanted(event)) return;
    if (event.key === "Escape" && document.querySelector(OPEN)) return;
    const button = found.buttons
      .map((name) => document.querySelector(`.st-key-${name} button`))
      .find((one) => one && !one.disabled);
    if (!button) return;
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
  document.addEventListener("keydown", onKey);
  document.addEventListener("mousedown", onPress, true);
  return () => {
    document.removeEventListener("input", onInput, true);
    document.removeEventListener("keydown", onKey);
    document.removeEventListener("mousedown", onPress, true);
  };
}
"""

_COMPONENT = st.components.v2.component("emo_viz_keys", js=_JS)


def listen() -> None:
    """Let the keys act on this page; once a page."""
    shortcuts = [
        {"key": key, "shift": shift, "buttons": list(buttons)}
        for (key, shift), buttons in SHORTCUTS.items()
    ]
    _COMPONENT(key="keys", data={"shortcuts": shortcuts})
