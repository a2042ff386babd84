"""A page as a visitor who follows a link gets it, and what can be read from it."""

import base64
import json
import zlib

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.server import assets
from emo_viz.ui.parts import opened

SECONDS = 600


def follow_link(page: str, **params: str | list[str]) -> AppTest:
    """The page ("": home) as the first request to a server."""
    at = AppTest.from_file(assets.APP_FOLDER / "app.py", default_timeout=SECONDS)
    if page:
        at.switch_page(page)
    for name, value in params.items():
        at.query_params[name] = value
    return run(at)


def open_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw at once what is made once it is opened; what a dialog holds stands on the page."""
    monkeypatch.setattr(opened, "is_open", lambda _: True)
    monkeypatch.setattr(opened, "in_dialog", lambda place, label, title, fill, **_: fill())


def run(at: AppTest) -> AppTest:
    at.run()
    assert not at.exception, at.exception
    return at


def charts(at: AppTest) -> list[dict]:
    """The figures of the page, from top to bottom."""
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def texts(at: AppTest) -> str:
    return "\n".join(part.value for part in [*at.markdown, *at.caption, *at.info, *at.warning])


def legends(at: AppTest) -> list[str]:
    return [part.proto.body for part in at.get("html")]


def strips(at: AppTest) -> list[dict]:
    """What the two panes of the reader were given."""
    return [each for each in components(at) if "tokens" in each and "sides" not in each]


def heatmaps(at: AppTest) -> list[dict]:
    """What the pictures of tokens by experts were given."""
    return [each for each in components(at) if "sides" in each]


def cards(at: AppTest) -> list[dict]:
    """What the panel of a chosen token was given."""
    return [each for each in components(at) if "parts" in each]


def losses(at: AppTest) -> list[str]:
    """What the panel of a chosen token says of its loss, run by run: "3.97 nats (1.9 %)"."""
    (card,) = cards(at)
    return [part["loss"] for part in card["parts"]]


def cells(layer: dict) -> dict[tuple[int, int], int]:
    """The level of each (position, expert) that a picture shows of a layer."""
    kind = "<u2" if layer["wide"] else "<u1"
    ids = np.frombuffer(base64.b64decode(layer["ids"]), kind)
    levels = np.frombuffer(base64.b64decode(layer["levels"]), "<u1")
    return {
        (place // layer["slots"] + 1, int(ids[place])): int(levels[place])
        for place in np.flatnonzero(levels).tolist()
    }


def looks(at: AppTest) -> list[dict]:
    """The token and the expert that texts and pictures were told to show."""
    return [each for each in components(at) if "followed" in each]


def components(at: AppTest) -> list[dict]:
    """What every part that the browser draws was given."""
    return [json.loads(part.proto.bytes) for part in at.get("bidi_component")]


def sent_maps(at: AppTest) -> dict:
    """What the browser was sent of the maps, and their `texts` and `ids` by row."""
    found = next(each for each in components(at) if "panels" in each)
    return found | json.loads(zlib.decompress(base64.b64decode(found["texts"])))


def drawn_points(panel: dict) -> list[tuple[str, tuple[float, float]]]:
    """The group and the place of every row of a map."""
    xs, ys, groups = (
        np.frombuffer(base64.b64decode(panel[name]), "<u2") for name in ("x", "y", "group")
    )
    names = [group["name"] for group in panel["groups"]]
    (left, low), unit = panel["low"], panel["unit"]
    return [
        (names[group], (left + float(x) * unit, low + float(y) * unit))
        for x, y, group in zip(xs, ys, groups, strict=True)
    ]


def marked(at: AppTest, what: str) -> list[int] | None:
    """The rows that the maps show as "selected" or as "highlight"; None for no such thing."""
    found = told(at)
    if found[what] is None:
        return None
    flags = np.unpackbits(np.frombuffer(base64.b64decode(found[what]), np.uint8))
    return np.flatnonzero(flags[: found["count"]]).tolist()


def told(at: AppTest) -> dict:
    """What the browser was told of the selection and the highlight on the maps."""
    return next(each for each in components(at) if "n" in each)


def numbers(array) -> list[float]:
    """A plotly array, plain or packed."""
    if isinstance(array, dict):
        return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"]).tolist()
    return array
