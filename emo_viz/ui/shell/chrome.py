"""What frames every page: its title, the way to the other pages, the glossary, what is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from emo_viz.server import assets, library
from emo_viz.ui.shell import glossary, keys, links, missing, routes
from emo_viz.ui.shell.words import compact, count, escape_markdown

PAGES = (
    (routes.HOME, "Overview", ":material/home:"),
    (routes.ROUTING, "Token routing", ":material/alt_route:"),
    (routes.CLUSTERS, "Document clusters", ":material/bubble_chart:"),
    (routes.ABLATION, "Subset ablation", ":material/content_cut:"),
    (routes.KERNEL, "Kernel", ":material/memory:"),
    (routes.DIFFERENCE, "Routing difference", ":material/difference:"),
)
SIDEBAR_PIXELS = 230
# Every line of a visitor's or a model's text has the direction of its own script.
BOTH_DIRECTIONS = (
    '<style>textarea, [data-testid="stText"] * { unicode-bidi: plaintext; text-align: start; }'
    "</style>"
)
ICON = Path(__file__).with_name("icon.png")


@contextmanager
def page(title: str) -> Iterator[None]:
    """Around all of a page: sets it up, and reads and writes its address.

    title: sentence case, also the browser tab's.
    """
    st.set_page_config(
        page_title="EMO Viz" if title == "EMO Viz" else f"{title} · EMO Viz",
        # A file: Streamlit would fetch the image of a Material icon from another machine.
        page_icon=ICON,
        layout="wide",
        initial_sidebar_state=SIDEBAR_PIXELS,
    )
    with st.sidebar:
        st.markdown("**EMO Viz**")
        for path, label, page_icon in PAGES:
            st.page_link(path, label=label, icon=page_icon, width="stretch")
        glossary.popover()
        _loaded()
        keys.listen()
    st.html(BOTH_DIRECTIONS)
    st.title(title)
    with links.page(title), missing.said():
        yield


def _loaded() -> None:
    """The models in one line each."""
    try:
        runs = library.comparison()
    except library.Missing:
        return
    for run in runs:
        try:
            facts = assets.model_facts(run)
        except FileNotFoundError:
            continue
        except ValueError:
            st.caption(f":material/error: **{escape_markdown(run.label)}**: cannot be read")
            continue
        st.caption(
            f"**{escape_markdown(facts.label)}**: {count(facts.num_layers, 'layer')}, "
            f"{facts.experts_in_words()} experts a layer, {compact(facts.parameters)} parameters"
        )
