"""What frames every page: its title, the way to the other pages, the glossary, what is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from emo_viz.ui import assets, glossary, keys, links
from emo_viz.ui.text import compact, count

PAGES = (
    ("app.py", "Overview", ":material/home:"),
    ("pages/1_Token_routing.py", "Token routing", ":material/alt_route:"),
    ("pages/2_Document_clusters.py", "Document clusters", ":material/bubble_chart:"),
    ("pages/3_Subset_ablation.py", "Subset ablation", ":material/content_cut:"),
    ("pages/4_Kernel.py", "Kernel", ":material/memory:"),
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
    with links.page(title):
        yield


def empty_state(sentence: str, command: str, headline: str = "Nothing to show yet") -> None:
    """Say what is missing and how to make it, in place of what the page would show.

    sentence: Markdown.
    """
    with st.container(border=True):
        st.markdown(f":material/inventory_2: **{headline}**")
        st.write(sentence)
        st.code(command, language="bash", wrap_lines=True)


def _loaded() -> None:
    """The two models in one line each."""
    for name in assets.MODEL_FOLDERS:
        try:
            facts = assets.model_facts(name)
        except FileNotFoundError:
            continue
        except ValueError:
            st.caption(f":material/error: **{assets.MODEL_LABELS[name]}**: cannot be read")
            continue
        st.caption(
            f"**{facts.label}**: {count(facts.num_layers, 'layer')}, "
            f"{facts.experts_in_words()} experts a layer, {compact(facts.parameters)} parameters"
        )
