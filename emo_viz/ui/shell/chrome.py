"""What frames every page: its title, the way to the other pages, the glossary, what is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from emo_viz.server import catalogue, library, looks, warm
from emo_viz.ui.shell import (
    chart_keys,
    frame,
    glossary,
    keys,
    links,
    missing,
    report,
    routes,
    session_file,
    slots,
    tour,
)
from emo_viz.ui.shell.words import compact, count, escape_markdown

PAGES = (
    (routes.HOME, "Overview", ":material/home:"),
    (routes.ROUTING, "Token routing", ":material/alt_route:"),
    (routes.CLUSTERS, "Document clusters", ":material/bubble_chart:"),
    (routes.ABLATION, "Subset ablation", ":material/content_cut:"),
    (routes.EXPERTS, "Experts", ":material/hub:"),
    (routes.DOMAINS, "Domains", ":material/category:"),
    (routes.SEARCH, "Search", ":material/search:"),
    (routes.DIFFERENCE, "Routing difference", ":material/difference:"),
    (routes.TRAINING, "Training", ":material/show_chart:"),
    (routes.KERNEL, "Kernel", ":material/memory:"),
    (routes.LIBRARY, "Library", ":material/inventory_2:"),
)
SIDEBAR_PIXELS = 230
# Every line of a visitor's or a model's text has the direction of its own script.
BOTH_DIRECTIONS = (
    'textarea, [data-testid="stText"] * { unicode-bidi: plaintext; text-align: start; }'
)
# What is chosen of several: white on the dark theme's primary colour has too little contrast.
CHIPS = (
    "span[data-tag][data-tag] { background: rgba(128, 132, 140, 0.24); color: inherit; } "
    "span[data-tag][data-tag] * { color: inherit; }"
)
STYLES = (
    BOTH_DIRECTIONS,
    CHIPS,
    frame.NO_LABELS,
    frame.AXES,
    frame.TOUCH,
    frame.TIGHT,
    chart_keys.NO_ROOM,
)
ICON = Path(__file__).with_name("icon.png")


@contextmanager
def page(title: str) -> Iterator[None]:
    """Around all of a page: sets it up, and reads and writes its address.

    title: sentence case, also the browser tab's.
    """
    st.set_page_config(
        page_title=f"{title} · EMO Viz",
        # A file: Streamlit would fetch the image of a Material icon from another machine.
        page_icon=ICON,
        layout="wide",
        initial_sidebar_state=SIDEBAR_PIXELS,
    )
    with st.sidebar:
        st.markdown("**EMO Viz**")
        chosen = st.container()
        pages = st.container()
        glossary.popover()
        loaded = st.container()
        keys.listen()
    st.html(f"<style>{''.join(STYLES)}</style>")
    first_line = st.container()
    with looks.one(), warm.drawing(), links.page(title), missing.said():
        frame.read()
        session_file.follow({label: path for path, label, _ in PAGES})
        with first_line:
            reported = frame.title(title)
            chart_keys.listen()
        slots.choose(chosen)
        way = slots.params() | frame.params()
        for path, label, page_icon in PAGES:
            pages.page_link(path, label=label, icon=page_icon, width="stretch", query_params=way)
        with loaded:
            _loaded()
        tour.show()
        with report.made(title, reported), missing.said():
            yield


def _loaded() -> None:
    """The runs that the pages show, in one line each."""
    try:
        runs = library.comparison()
    except library.Missing:
        return
    for run in runs:
        label, entry = escape_markdown(run.label), catalogue.entry(run)
        if run.checkpoint and entry.model is None:
            st.caption(f":material/error: **{label}**: cannot be read")
        elif said := _size(entry):
            st.caption(f"**{label}**: {said}")


def _size(entry: catalogue.Entry) -> str:
    """ "4 layers, 128 experts a layer, 7.7 M parameters", as far as it is known."""
    found = entry.model or entry.recording
    if found is None:
        return ""
    layers = count(found.layers, "layer") if found.layers else ""
    experts = f"{found.experts} experts a layer" if found.experts else ""
    size = f"{compact(entry.model.parameters)} parameters" if entry.model else "a recording alone"
    return ", ".join(filter(None, (layers, experts, size)))
