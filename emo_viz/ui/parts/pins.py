"""Pins: tokens, documents and texts that a visitor keeps, to compare two of them.

They stay in the visitor's session from page to page; the page that compares them writes them into
its address. A pin is a short text: where it is, and of which token.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import streamlit as st

from emo_viz.ui.parts import text_links
from emo_viz.ui.shell import links, routes, slots
from emo_viz.ui.shell.address import Found, Kind
from emo_viz.ui.shell.words import count

MOST = 8  # kept at once: the one pinned first makes room
KEY = routes.PINS
_CODE = re.compile(r"(?:([1-9][0-9]{0,5})\.)?([dt])\.(.+)", re.DOTALL | re.ASCII)


@dataclass(frozen=True)
class Pin:
    """A document (its id) or a text of the visitor's own (as a link carries it), and of it perhaps
    one token (the first is 1). Exactly one of document and text is given."""

    document: str | None = None
    text: str | None = None
    token: int | None = None

    @property
    def code(self) -> str:
        """As it stands in the session and in an address."""
        where = f"t.{self.text}" if self.document is None else f"d.{self.document}"
        return where if self.token is None else f"{self.token}.{where}"

    @property
    def whole(self) -> "Pin":
        """The document or text that it is of."""
        return replace(self, token=None)

    @property
    def routing(self) -> dict[str, str]:
        """Parameters of the routing page that open it."""
        if self.document is not None:
            return routes.routing_of_document(self.document, self.token)
        return routes.routing_of_text(self.text or "", self.token)


def of_text(text: str, token: int | None = None) -> Pin:
    """A pin of a text that has no id."""
    return Pin(text=text_links.code_of(text), token=token)


def parse(code: str) -> Pin:
    """The pin of a code. Raises ValueError for a text that is none."""
    found = _CODE.fullmatch(code)
    if found is None:
        raise ValueError(code)
    token = int(found[1]) if found[1] else None
    return Pin(found[3], None, token) if found[2] == "d" else Pin(None, found[3], token)


class _Pins(Kind[list[str]]):
    """Codes of pins: the parameter stands in the address once for each."""

    def read(self, asked: Sequence[str]) -> Found[list[str]]:
        texts = list(dict.fromkeys(asked))
        usable = [text for text in texts if _CODE.fullmatch(text)][:MOST]
        rest = [text for text in texts if text not in usable]
        return Found(usable, self.problem(rest) if rest else "")

    def write(self, value: list[str]) -> list[str]:
        return list(value)


_KIND = _Pins(
    parse=lambda text: [text],
    form=",".join,
    fits=lambda value: isinstance(value, list),
    sentence=f"The link asks for the pin {{asked}}, which is none or more than {MOST}; it is left "
    "out.",
    lasting=True,
)


def kept() -> list[Pin]:
    """The visitor's pins, those pinned first first; on a page that does not address them."""
    return [parse(code) for code in st.session_state.get(KEY, [])]


def addressed() -> list[Pin]:
    """The visitor's pins, which this page's address carries; a link's take their place."""
    codes: list[str] = links.value(KEY, _KIND, [])
    return [parse(code) for code in codes]


def toggle(pin: Pin) -> None:
    """Pin it, or take it off; of more than MOST the one pinned first goes."""
    codes: list[str] = list(st.session_state.get(KEY, []))
    if pin.code in codes:
        codes.remove(pin.code)
    else:
        codes = [*codes, pin.code][-MOST:]
    st.session_state[KEY] = codes


def clear() -> None:
    """Take all pins off."""
    st.session_state[KEY] = []


def is_pinned(pin: Pin) -> bool:
    """Whether the visitor has pinned it."""
    return pin.code in st.session_state.get(KEY, [])


def popover(pin: Pin, token: int | None, key: str) -> None:
    """Pins a document or text and its chosen token, and leads to the comparison.

    pin: of the whole. token: the chosen one, or None. key: begins the names of the buttons.
    """
    what = "text" if pin.document is None else "document"
    with st.popover("Pin", icon=":material/keep:", help="Keep it to compare it with another one"):
        _button(pin, f"this {what}", f"{key}_pin")
        if token is None:
            st.caption("Choose a token to pin it.")
        else:
            _button(replace(pin, token=token), f"token {token}", f"{key}_pin_token")
        if number := len(kept()):
            _link(number)


def _button(pin: Pin, what: str, key: str) -> None:
    verb = "Unpin" if is_pinned(pin) else "Pin"
    st.button(f"{verb} {what}", key=key, on_click=toggle, args=(pin,), width="stretch")


def _link(number: int) -> None:
    """To the page that compares the pins."""
    st.page_link(
        routes.SEARCH,
        label=f"Compare {count(number, 'pin')}" if number > 1 else "1 pin; pin another one",
        icon=":material/compare:",
        query_params=slots.params() | routes.compared(),
    )
