"""Whether what was derived from checkpoints and documents is still of those that lie here."""

from dataclasses import replace

from emo_viz.analysis.origins import Origins, stale
from emo_viz.server import assets
from emo_viz.ui.shell.words import escape_markdown

MEND = "make them again"
OUT_OF_DATE = "Out of date"


class Stale(ValueError):
    """What was asked for is of other checkpoints or documents; the text is safe for Markdown."""


def check(what: str, made_from: Origins, documents: bool = True) -> None:
    """Raises Stale, in words for the visitor, if `what` ("The curves") is of something else.

    documents: whether it matters which documents lie here.
    """
    present = assets.origins(made_from.models)
    if not documents:
        present = replace(present, documents=None, calibration=None)
    found = stale(what, made_from, present, MEND)
    if found:
        raise Stale(" ".join(escape_markdown(sentence) for sentence in found))
