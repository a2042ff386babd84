"""A Streamlit component without an iframe, whose data is written as JSON once.

Streamlit writes what it is given as JSON twice, once for the browser and once with sorted keys to
tell components without a key apart; a tenth of a page's time went into it. Here it is written once,
or never anew where the page hands over what `packed` has made, and sent as bytes.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import streamlit as st

# What only a screen reader takes in.
HEARD_ALONE = (
    "{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); } "
)
HEARD_CSS = f".heard {HEARD_ALONE}"
_SHOWN, _OPENING = "export default function", "function emoVizShow"
_READ = """
const emoVizDecoder = new TextDecoder();
export default (given) => emoVizShow({
  ...given,
  data: JSON.parse(emoVizDecoder.decode(given.data)),
});
"""


def component(name: str, *, js: str, html: str = "", css: str = "") -> Callable[..., Any]:
    """A component as `st.components.v2.component` makes it. js: has `export default function`.

    Called with `data`: what JSON can say, or what `packed` made of it.
    """
    opening, found, rest = js.rpartition(_SHOWN)
    if not found:
        raise ValueError(f"The script of {name} has no `{_SHOWN}`.")
    draw = st.components.v2.component(
        name, html=html or None, css=css or None, js=f"{opening}{_OPENING}{rest}{_READ}"
    )

    def mount(*, data: Any, **how: Any) -> Any:
        return draw(data=data if isinstance(data, bytes) else packed(data), **how)

    return mount


def packed(data: Any) -> bytes:
    """Data as it is sent, to be kept for the next visitor. NaN and infinity, which the browser's
    JSON does not know, are sent as null."""
    try:
        return _written(data)
    except ValueError:
        return _written(_finite(data))


def _written(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
