"""What a saved picture or report needs wherever it is made: how it is drawn, and of what it is.

PICTURE_JS goes before a component's own script; there, `drawn(key, look)` is the picture of an
element by its Streamlit key, `framed` puts a legend and a line of provenance around it, `painted`
makes a PNG of that, and `save` hands a file to the visitor.
"""

from collections.abc import Iterable
from pathlib import Path

from emo_viz.analysis.runs import Run
from emo_viz.server import assets

PICTURE_JS = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
DIGITS = 12  # of a digest


def provenance(runs: Iterable[Run], shown: str = "") -> str:
    """One line that says of what something is: the runs with the digests of their weights, the
    documents' digest where it is known, and what is shown of them."""
    runs = list(runs)
    bundle = [run for run in runs if run.checkpoint is not None]
    origins = assets.origins(run.id for run in bundle)
    parts = []
    for run in runs:
        weights = origins.models.get(run.id)
        known = f", weights {weights.sha256[:DIGITS]}" if weights else ""
        parts.append(f"{run.label} ({run.id}{known})")
    if bundle and origins.documents:
        parts.append(f"documents {origins.documents[:DIGITS]}")
    return "; ".join([*parts, *filter(None, [shown]), "EMO Viz"])
