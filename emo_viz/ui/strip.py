"""The text itself, token by token: coloured, clickable, and walked with the arrow keys.

A Streamlit component without an iframe. Tokens reach the page as data and are written with
textContent, so a token that looks like markup stays a token.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import streamlit as st

_HTML = '<div class="strip" tabindex="0" role="listbox" aria-label="Tokens of the text"></div>'

_CSS = """
.strip {
  overflow-y: auto;
  padding: 0.5rem 0.75rem;
  border: 1px solid var(--st-border-color);
  border-radius: var(--st-base-radius);
  font-family: var(--st-font);
  font-size: 0.95rem;
  line-height: 1.75;
  white-space: pre-wrap;
  overflow-wrap: anywhere;
  unicode-bidi: plaintext; /* every line has the direction of its own script */
  color: var(--st-text-color);
}
.strip:focus-visible {
  outline: 2px solid var(--st-primary-color);
  outline-offset: 1px;
}
.token {
  cursor: pointer;
  padding: 0.12em 0;
  border-radius: 2px;
  background-color: var(--fill);
}
.token:hover {
  outline: 1px solid var(--st-text-color);
}
.token.marked {
  text-decoration: underline 3px var(--mark);
  text-underline-offset: 4px;
  text-decoration-skip-ink: none;
}
.token[aria-selected="true"] {
  outline: 2px solid var(--selection);
}
/* More tokens of one character: small fields below it. They take no room in the line, because
   letters that join (Arabic) are drawn apart wherever anything stands between them. */
.token.rest {
  position: relative;
  background: none;
}
.token.rest::after {
  content: "";
  position: absolute;
  bottom: -0.45em;
  inset-inline-end: calc(var(--after) * 7px);
  width: 6px;
  height: 6px;
  background-color: var(--fill);
  box-shadow: inset 0 0 0 1px rgba(128, 132, 140, 0.6);
}
.token.rest.marked::after {
  border-bottom: 3px solid var(--mark);
}
.token.rest:hover::after {
  outline: 1px solid var(--st-text-color);
}
.token.rest[aria-selected="true"]::after {
  outline: 2px solid var(--selection);
}
.sign {
  opacity: 0.45;
}
"""

_JS = """
const SEND_AFTER_MS = 120;

function build(strip, tokens) {
  strip.replaceChildren();
  tokens.forEach((token, index) => {
    const node = document.createElement("span");
    node.className = token.text ? "token" : "token rest";
    node.id = `token-${index + 1}`;
    node.setAttribute("role", "option");
    const text = document.createElement("span");
    text.textContent = token.text;
    if (token.sign) text.className = "sign";
    node.append(text);
    strip.append(node);
    for (let i = 0; i < token.breaks; i += 1) strip.append(document.createElement("br"));
  });
}

function paint(strip, data) {
  strip.style.setProperty("--mark", data.mark_colour);
  strip.style.setProperty("--selection", data.selection_colour);
  [...strip.querySelectorAll(".token")].forEach((node, index) => {
    const token = data.tokens[index];
    node.style.setProperty("--fill", token.colour);
    node.style.setProperty("--after", token.after);
    node.title = token.title;
    node.classList.toggle("marked", token.marked);
  });
}

function select(strip, position) {
  strip.querySelectorAll('[aria-selected="true"]').forEach(
    (node) => node.setAttribute("aria-selected", "false"));
  strip.dataset.selected = position ?? "";
  strip.removeAttribute("aria-activedescendant");
  const node = position && strip.querySelector(`#token-${position}`);
  if (!node) return;
  node.setAttribute("aria-selected", "true");
  strip.setAttribute("aria-activedescendant", node.id);
  const top = node.offsetTop - strip.offsetTop;
  if (top < strip.scrollTop || top + node.offsetHeight > strip.scrollTop + strip.clientHeight) {
    strip.scrollTop = top - strip.clientHeight / 2;
  }
}

function beside(strip, position, down) {
  const nodes = [...strip.querySelectorAll(".token")];
  const here = nodes[position - 1].getClientRects()[0];
  if (!here) return position;
  const beyond = nodes
    .map((node, index) => ({ rect: node.getClientRects()[0], position: index + 1 }))
    .filter(({ rect }) => rect && (down ? rect.top > here.top + 4 : rect.top < here.top - 4));
  if (!beyond.length) return position;
  const tops = beyond.map(({ rect }) => rect.top);
  const line = down ? Math.min(...tops) : Math.max(...tops);
  const distance = ({ rect }) => Math.abs(rect.left - here.left);
  return beyond
    .filter(({ rect }) => Math.abs(rect.top - line) <= 4)
    .reduce((best, next) => (distance(next) < distance(best) ? next : best)).position;
}

function target(strip, key, count) {
  const now = Number(strip.dataset.selected) || 0;
  const moves = {
    ArrowRight: () => Math.min(count, now + 1),
    ArrowLeft: () => Math.max(1, now - 1),
    ArrowDown: () => (now ? beside(strip, now, true) : 1),
    ArrowUp: () => (now ? beside(strip, now, false) : 1),
    Home: () => 1,
    End: () => count,
    Escape: () => null,
  };
  return key in moves ? moves[key]() : undefined;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  const texts = JSON.stringify(data.tokens.map((token) => [token.text, token.breaks]));
  if (strip.dataset.texts !== texts) {
    build(strip, data.tokens);
    strip.dataset.texts = texts;
    strip.scrollTop = 0;
  }
  strip.dir = "auto";
  strip.style.maxHeight = `${data.pixels}px`;
  paint(strip, data);
  // A server answer may arrive while the visitor has already moved on: theirs is the newer one.
  if (!strip.pending) select(strip, data.selected);

  const send = (position, wait) => {
    select(strip, position);
    clearTimeout(strip.pending);
    strip.pending = setTimeout(() => {
      strip.pending = null;
      setTriggerValue("picked", { token: position });
    }, wait);
  };
  strip.onclick = (event) => {
    const node = event.target.closest(".token");
    if (node) send(Number(node.id.slice("token-".length)), 0);
  };
  strip.onkeydown = (event) => {
    // Shift with an arrow key belongs to the page: it goes to another layer.
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const position = target(strip, event.key, data.tokens.length);
    if (position === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    send(position, SEND_AFTER_MS);
  };
}
"""

_COMPONENT = st.components.v2.component("emo_viz_token_strip", html=_HTML, css=_CSS, js=_JS)


@dataclass(frozen=True)
class StripToken:
    """One token as the strip shows it.

    text: "" for a token that only continues the character before; after: of how many more of its
    tokens it is followed. sign: the text is a stand-in (a line break). breaks: line breaks after
    it.
    """

    text: str
    title: str
    colour: str
    marked: bool = False
    sign: bool = False
    breaks: int = 0
    after: int = 0


def token_strip(
    tokens: Sequence[StripToken],
    selected: int | None,
    mark_colour: str,
    selection_colour: str,
    pixels: int,
    key: str,
    on_pick: Callable[[int | None], None],
) -> None:
    """Draw the tokens; `on_pick` gets the position chosen (the first token is 1), or None.

    pixels: the height from which on the text scrolls.
    """

    def picked() -> None:
        event = st.session_state[key]["picked"]
        if event is not None:
            on_pick(event["token"])

    _COMPONENT(
        key=key,
        data={
            "tokens": [asdict(token) for token in _counted(tokens)],
            "selected": selected,
            "mark_colour": mark_colour,
            "selection_colour": selection_colour,
            "pixels": pixels,
        },
        on_picked_change=picked,
    )


def _counted(tokens: Sequence[StripToken]) -> list[StripToken]:
    """The tokens, each knowing how many more of the same character follow it."""
    counted: list[StripToken] = []
    after = 0
    for token in reversed(tokens):
        counted.append(replace(token, after=after))
        after = 0 if token.text else after + 1
    return counted[::-1]
