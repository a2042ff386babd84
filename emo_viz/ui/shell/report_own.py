"""The HTML that pages write themselves, as a report may hold it: a few tags and their looks.

A report is a file of its own, in which nothing else would keep a script away.
"""

import html
import re
from html.parser import HTMLParser

TAGS = {"div", "span", "p", "b", "strong", "i", "em", "small", "sub", "sup", "br", "ul", "ol", "li"}
TABLE = {"table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"title", "dir", "lang", "aria-hidden", "colspan", "rowspan"}
VOID = {"br"}
LOADS = re.compile(r"url|image|src|import|\\", re.IGNORECASE)  # or could be written to
SILENT = {"style", "script", "template"}  # what is in them is no text


def own_html(source: str) -> str:
    """The same without any other tag or attribute; every text is escaped. "" if no text is left."""
    parser = _Kept()
    parser.feed(source)
    parser.close()
    return "".join(parser.made) if parser.says else ""


class _Kept(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.made: list[str] = []
        self.says = False
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in SILENT
        if tag in TAGS | TABLE and not self._silent:
            kept = "".join(f' {name}="{html.escape(value)}"' for name, value in _safe(attrs))
            self.made.append(f"<{tag}{kept}>")

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in SILENT))
        if tag in TAGS | TABLE and tag not in VOID and not self._silent:
            self.made.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.made.append(html.escape(data))
            self.says |= bool(data.strip())


def _safe(attrs: list[tuple[str, str | None]]) -> list[tuple[str, str]]:
    """Of the attributes those that load and do nothing."""
    return [
        (name, value)
        for name, value in attrs
        if value is not None and (name in ATTRIBUTES or name == "style" and not LOADS.search(value))
    ]
