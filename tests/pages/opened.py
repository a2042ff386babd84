"""A page as a visitor who follows a link gets it, and what can be read from it."""

import base64
import json

import numpy as np
from streamlit.testing.v1 import AppTest

from emo_viz.server import assets

SECONDS = 600


def follow_link(page: str, **params: str | list[str]) -> AppTest:
    """The page ("": home) as the first request to a server."""
    at = AppTest.from_file(assets.APP_FOLDER / "app.py", default_timeout=SECONDS)
    if page:
        at.switch_page(page)
    for name, value in params.items():
        at.query_params[name] = value
    return run(at)


def run(at: AppTest) -> AppTest:
    at.run()
    assert not at.exception, at.exception
    return at


def charts(at: AppTest) -> list[dict]:
    """The figures of the page: EMO's map, the standard model's, the heatmaps."""
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def texts(at: AppTest) -> str:
    return "\n".join(part.value for part in [*at.markdown, *at.caption, *at.info, *at.warning])


def legends(at: AppTest) -> list[str]:
    return [part.proto.body for part in at.get("html")]


def strips(at: AppTest) -> list[dict]:
    """What the two panes of the reader were given."""
    given = [json.loads(part.proto.json) for part in at.get("bidi_component")]
    return [each for each in given if "tokens" in each]


def numbers(array) -> list[float]:
    """A plotly array, plain or packed."""
    if isinstance(array, dict):
        return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"]).tolist()
    return array
