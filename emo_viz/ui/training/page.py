"""Training page: which runs are shown, and its views of them."""

from emo_viz.ui.parts.lazy_tabs import Tab, lazy_tabs
from emo_viz.ui.shell import routes
from emo_viz.ui.training import curves, history, loads


def show() -> None:
    """The page."""
    tabs = [
        Tab("Curves", curves.show),
        Tab("Expert load", loads.show),
        Tab("Checkpoints", history.show),
    ]
    lazy_tabs(routes.TRAINING_VIEW, tabs, "view")
