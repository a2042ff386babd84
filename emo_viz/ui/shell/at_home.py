"""What the first screen of Home shows now, for links that lead from there to the same elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from emo_viz.analysis.runs import Comparison
from emo_viz.server import library, typical
from emo_viz.ui.shell import routes

_SEEN = "at_home"


@dataclass(frozen=True)
class Seen:
    """A document as these runs read it: the layer by the model's own number, the token from 1, and
    how many experts are kept."""

    runs: tuple[str, ...]
    document: str
    layer: int
    token: int | None
    keep_k: int


def usual_layer(layers: Sequence[int]) -> int:
    """The layer that a text opens at, here and elsewhere: the last one, where experts follow the
    subject of a text most plainly."""
    return layers[-1]


def show(seen: Seen) -> None:
    """Keep what this visitor sees on Home."""
    st.session_state[_SEEN] = seen


def routing(runs: Comparison, document: str | None = None) -> dict[str, str]:
    """The parameters of the routing page that show the same; {} where no document is known.

    document: the one that Home shows; else the one that it has shown, or would.
    """
    seen, document = _found(runs, document)
    if document is None:
        return {}
    if seen is None:
        return routes.routing_of_document(document)
    found = routes.routing_of_document(document, seen.token)
    same = not runs.why_not("layers")
    return found | ({routes.ROUTING_LAYER: str(seen.layer)} if same else {})


def ablation(runs: Comparison, document: str | None = None) -> dict[str, str]:
    """Those of the ablation page."""
    seen, document = _found(runs, document)
    if document is None:
        return {}
    found = routes.ablation_of_document(document)
    if seen is None:
        return found
    token = {} if seen.token is None else {routes.SUBSET_TOKEN: str(seen.token)}
    return found | {routes.SUBSET_KEEP: str(seen.keep_k)} | token


def _found(runs: Comparison, document: str | None) -> tuple[Seen | None, str | None]:
    seen: Seen | None = st.session_state.get(_SEEN)
    if seen is not None and seen.runs == runs.ids and document in (None, seen.document):
        return seen, seen.document
    if document is not None:
        return None, document
    try:
        return None, str(typical.document(runs)["id"])
    except library.Missing:
        return None, None
