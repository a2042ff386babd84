"""The app, warmed up as its server starts. Run: python -m streamlit run serve.py"""

import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import streamlit as st

from emo_viz import ui
from emo_viz.server import lighter, warm


def pages() -> Iterator[Callable[[], Any]]:
    """What the home page shows, then what the other pages import."""
    from emo_viz.ui.home import prepare

    yield from prepare.steps()
    for package in pkgutil.iter_modules(ui.__path__, "emo_viz.ui."):
        yield partial(_imported, f"{package.name}.page")


def _imported(name: str) -> None:
    if importlib.util.find_spec(name):
        importlib.import_module(name)


lighter.lighten()
app = st.App("app.py", lifespan=warm.lifespan(pages))
