"""What a page does with keys and typing: turns documents, opens the search, leaves the rest.

A Streamlit button's own shortcut also fires while the arrow keys walk through a table, a list or a
slider. The keys here press a button by its key, unless whatever has the focus knows the key too.

A "/" outside of a field goes into the field of the search page, from any page and any view of it.

The same component sees to it that a click on a link counts while a text is being typed (leaving the
field would run the page with the draft, and that run would overtake the click), and that no half
character is sent: it has no UTF-8, and the server would close the connection.
"""

from pathlib import Path

from emo_viz.ui.shell import routes
from emo_viz.ui.shell.component import component

# (key, with shift): the buttons it presses, of which a page has one at most.
SHORTCUTS = {
    ("ArrowLeft", False): (
        "routing_previous",
        "cluster_previous",
        "subset_previous",
        "experts_previous",
    ),
    ("ArrowRight", False): ("routing_next", "cluster_next", "subset_next", "experts_next"),
    ("ArrowUp", True): ("routing_previous_layer",),
    ("ArrowDown", True): ("routing_next_layer",),
    ("ArrowLeft", True): ("tour_previous",),
    ("ArrowRight", True): ("tour_next",),
    ("Escape", False): ("cluster_selection_clear", "cluster_tokens_clear", "tour_end"),
}

_JS = Path(__file__).with_name("keys.js").read_text(encoding="utf-8")
_COMPONENT = component("emo_viz_keys", js=_JS)


def listen() -> None:
    """Let the keys act on this page; once a page."""
    shortcuts = [
        {"key": key, "shift": shift, "buttons": list(buttons)}
        for (key, shift), buttons in SHORTCUTS.items()
    ]
    search = {
        "field": routes.SEARCH_TEXT,
        "view": routes.SEARCH_VIEW,
        "page": routes.address(routes.SEARCH),
    }
    _COMPONENT(key="keys", data={"shortcuts": shortcuts, "search": search})
