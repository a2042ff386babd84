"""What a page sends to the browser, as plain HTML. Every text is escaped here; knows no session."""

import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from emo_viz.ui.shell.report_own import own_html
from emo_viz.ui.shell.report_table import table
from emo_viz.ui.shell.words import SIGNS_OF_MARKDOWN, without_hands

MAIN = 0  # the first number of the place of what stands beside the side bar
_HEADING = re.compile(r"^(#{1,6}) +")
# What may be the place of a file.
_PATH = re.compile(r"(?<![\w.:/&;<])(?:/[^\s/<>&;:,()]+){2,}")
_STYLE = """
:root { --paper: #fff; --ink: #0b1113; --line: rgba(128, 132, 140, 0.35); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.4rem; } h2 { font-size: 1.2rem; } h3, h4, h5, h6 { font-size: 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; }
th, td { border: 1px solid var(--line); padding: 0.2rem 0.6rem; text-align: start; }
td { overflow-wrap: anywhere; }
a { color: inherit; } .note { opacity: 0.8; font-size: 0.9rem; }
figure { margin: 1rem -16px; padding: 0 16px; overflow-x: auto; }
pre { white-space: pre-wrap; unicode-bidi: plaintext; }
"""
_DRAW = """
const { color, fontFamily } = getComputedStyle(document.body);
for (const place of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(place.nextElementSibling.textContent);
  const none = "rgba(0, 0, 0, 0)", font = { ...figure.layout.font, color, family: fontFamily };
  const layout = { ...figure.layout, font, paper_bgcolor: none, plot_bgcolor: none,
    autosize: true };
  Plotly.newPlot(place, figure.data, layout, { responsive: true, displaylogo: false });
}
"""


class Shown:
    """The elements of a page by their places, as far as the messages of one run tell."""

    def __init__(self) -> None:
        self._elements: dict[tuple[int, ...], Element] = {}
        self._left_out: set[tuple[int, ...]] = set()
        self.has_charts = False

    def take(self, message: ForwardMsg) -> None:
        """One more message to the browser."""
        if message.WhichOneof("type") != "delta":
            return
        place, delta = tuple(message.metadata.delta_path), message.delta
        if delta.WhichOneof("type") == "new_element":
            self._elements[place] = delta.new_element
            self.has_charts |= delta.new_element.WhichOneof("type") == "plotly_chart"
        elif delta.add_block.WhichOneof("type") in ("popover", "dialog"):
            self._left_out.add(place)

    def __iter__(self) -> Iterator[Element]:
        """The elements in the order of the page; without the side bar and what is folded away."""
        for place in sorted(self._elements):
            hidden = any(place[:end] in self._left_out for end in range(1, len(place)))
            if place[0] == MAIN and not hidden:
                yield self._elements[place]


def document(title: str, shown: Shown, about: Sequence[tuple[str, str]]) -> str:
    """The page. about: what it was made of, name and value."""
    body = "\n".join(filter(None, map(_element, shown)))
    facts = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in about
    )
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} \u00b7 EMO Viz'
        f"</title><style>{_STYLE}</style></head><body><main><h1>{name}</h1>{body}"
        f"<h2>What this was made of</h2><table>{facts}</table></main>"
        f'<script type="module">{_DRAW}</script></body></html>'
    )


def markdown(body: str) -> str:
    """The little Markdown that pages write (headings, bold, links, lists), as HTML."""
    lines, made = without_hands(body).strip().split("\n\n"), []
    for block in lines:
        heading = _HEADING.match(block)
        level = len(heading[1]) if heading else 0
        text = _inline(block[heading.end() :] if heading else block)
        if text.strip():
            made.append(f"<h{level}>{text}</h{level}>" if heading else f"<p>{text}</p>")
    return "".join(made)


def _inline(text: str) -> str:
    """A paragraph's text; the places of files are shortened to their names."""
    return _PATH.sub(_without_folders, _marked(text))


def _without_folders(match: re.Match[str]) -> str:
    path = Path(match[0])
    try:
        is_here = Path(*path.parts[:2]).is_dir()
    except OSError:  # no name that a disk could hold
        is_here = False
    return f"\u2026/{path.name}" if is_here else match[0]


def _marked(text: str) -> str:
    parts, bold, at = [], False, 0
    for match in SIGNS_OF_MARKDOWN.finditer(text):
        parts.append(html.escape(text[at : match.start()]))
        at = match.end()
        if match[1] is not None:
            parts.append(html.escape(match[1]))
        elif match[2] is not None:
            parts.append(_marked(match[2]))
        elif match[0] == "**":
            bold = not bold
            parts.append("<strong>" if bold else "</strong>")
        elif match[0] == "\n":
            parts.append("<br>")
    return "".join([*parts, html.escape(text[at:]), "</strong>" if bold else ""])


def _element(element: Element) -> str:
    """One element as HTML; "" for controls and whatever else is none of the answer."""
    kind = str(element.WhichOneof("type"))
    draw = _DRAWN.get(kind)
    return draw(getattr(element, kind)) if draw else ""


def _heading(one: Any) -> str:
    tag = one.tag if re.fullmatch("h[1-6]", one.tag) else "h2"
    return f"<{tag}>{_inline(one.body)}</{tag}>"


def _figure(one: Any) -> str:
    spec = json.dumps(json.loads(one.spec)).replace("<", "\\u003c")
    return (
        f'<div data-figure role="img" aria-label="{html.escape(one.alt)}"></div>'
        f'<script type="application/json">{spec}</script>'
    )


def _page_link(one: Any) -> str:
    address = html.escape("?".join(filter(None, [one.page, one.query_string])))
    return f'<p data-link><a href="{address}">{_inline(one.label)}</a></p>'


def _component(one: Any) -> str:
    """The place of what the browser adds."""
    return f'<figure data-key="{html.escape(one.id.split("-", 2)[-1])}"></figure>'


_DRAWN: dict[str, Callable[[Any], str]] = {
    "heading": _heading,
    "markdown": lambda one: markdown(one.body),
    "alert": lambda one: f'<div class="note">{markdown(one.body)}</div>',
    "text": lambda one: f"<pre>{html.escape(one.body)}</pre>",
    "code": lambda one: f"<pre>{html.escape(one.code_text)}</pre>",
    "metric": lambda one: f"<p>{_inline(one.label)}: <strong>{html.escape(one.body)}</strong></p>",
    "plotly_chart": _figure,
    "dataframe": table,
    "table": table,
    "page_link": _page_link,
    "bidi_component": _component,
    "html": lambda one: own_html(without_hands(one.body)),
}
