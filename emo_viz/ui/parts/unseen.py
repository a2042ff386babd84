"""Whether curves are of all held-out documents, or of those that training has hardly seen."""

from typing import Any

import pandas as pd

from emo_viz.analysis.curves import Curves
from emo_viz.analysis.unseen import BELOW, in_words, says_seen, unseen_ids
from emo_viz.figures.kept import beside
from emo_viz.ui.shell import links
from emo_viz.ui.shell.words import count

ALL, NEW = "All", "New"
HELP = (
    "Templates and boilerplate recur however documents are split. New: training has seen under "
    f"{in_words(BELOW)} of the document, by its sequences of 20 tokens."
)


def offer(place: Any, documents: pd.DataFrame, key: str) -> bool:
    """A choice between all documents and the new ones, with how many there are of each; whether
    the latter. Draws nothing where the documents do not say how much of them was seen, or are all
    new, or none is. documents: shared and only read."""
    new = beside(documents, "new documents", lambda: _count(documents))
    if not 0 < new < len(documents):
        return False
    counts = {ALL: len(documents), NEW: new}
    chosen = links.choice(
        place,
        "Measured on",
        [ALL, NEW],
        key,
        what="set of documents",
        said=str,  # an address has no numbers in it
        help=HELP,
        format_func=lambda name: f"{name} {counts[name]:,}",
    )
    return chosen == NEW


def are_new(curves: Curves) -> bool:
    """Whether the curves are of new documents alone."""
    return curves.seen_below is not None and curves.seen_below <= BELOW


def measured_on(curves: Curves) -> str:
    """That the curves were measured on new documents alone, in a sentence; "" of all documents."""
    if curves.seen_below is None:
        return ""
    return (
        f"The curves were measured on the {count(curves.rows['document'].nunique(), 'document')} "
        f"alone of which training has seen under {in_words(curves.seen_below)}."
    )


def _count(documents: pd.DataFrame) -> int:
    try:
        return len(unseen_ids(documents)) if says_seen(documents) else 0
    except ValueError:
        return 0


def restricted(curves: Curves, documents: pd.DataFrame, only_new: bool) -> Curves:
    """The curves of what was chosen."""
    return curves.of_documents(unseen_ids(documents)) if only_new else curves


def in_a_sentence(only_new: bool) -> str:
    """What was chosen, behind a number of documents and before one of tokens."""
    return f"training has seen under {in_words(BELOW)} of each, " if only_new else ""
