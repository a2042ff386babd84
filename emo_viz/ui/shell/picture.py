"""What a saved picture or report needs wherever it is made: how it is drawn, and of what it is.

PICTURE_JS goes before a component's own script; there, `drawn(key, look)` is the picture of an
element by its Streamlit key, `framed` puts a title, a legend and a line of provenance around it,
`painted` makes a PNG of that, and `save` hands a file to the visitor.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from emo_viz.analysis.runs import Run
from emo_viz.server import assets, training
from emo_viz.server.training import TrainingRun
from emo_viz.ui.shell import viewed
from emo_viz.ui.shell.words import count
from model.files import weights_digest
from model.train.steps import METRICS

_FOLDER = Path(__file__).parent
# What is seen of a component, and pictures of that and of charts.
PICTURE_JS = "".join(
    (_FOLDER / name).read_text(encoding="utf-8")
    for name in ("picture_seen.js", "picture_pen.js", "picture.js")
)
DIGITS = 12  # of a digest

Source = Run | TrainingRun | str  # a text says of itself what it is


def provenance(runs: Iterable[Source], shown: str = "") -> str:
    """One line that says of what something is: the runs with the digests of their weights, the
    documents' digest where it is known, and what is shown of them."""
    return "; ".join(filter(None, [*_origins(list(runs)), shown, "EMO Viz"]))


def line(
    runs: Iterable[Source], shown: str = "", apart: Collection[str] = ()
) -> list[dict[str, str]]:
    """`provenance` with what the page's controls hold, in parts; but for those named in `apart`.

    said: the part, "" for none. name and form: of a control, and how its part is said, for what
    may move in the browser before the page is told. only: the key of the element that it is of;
    apart: of the one that it is not of.
    """
    own = [{"said": said} for said in (*_origins(list(runs)), shown) if said]
    held = [
        {
            "said": "" if each.usual else each.said,
            "name": each.name,
            "form": each.form,
            "only": each.only,
            "apart": each.apart,
        }
        for each in viewed.controls()
        if each.name not in apart
    ]
    return [*own, *held, {"said": "EMO Viz"}]


def joined(parts: list[dict[str, str]]) -> str:
    """The parts of a line that are of all of a page."""
    return "; ".join(part["said"] for part in parts if part["said"] and not part.get("only"))


def _origins(runs: list[Source]) -> list[str]:
    """Each run, and the digest of the documents where it is known."""
    bundle = [run.id for run in runs if isinstance(run, Run) and run.checkpoint is not None]
    origins = assets.origins(bundle)
    said = []
    for run in runs:
        if isinstance(run, Run):
            weights = origins.models.get(run.id)
            known = f", weights {weights.sha256[:DIGITS]}" if weights else ""
            said.append(f"{run.label} ({run.id}{known})")
        else:
            said.append(run if isinstance(run, str) else _trained(run))
    if bundle and origins.documents:
        said.append(f"documents {origins.documents[:DIGITS]}")
    return said


def _trained(run: TrainingRun) -> str:
    """A run by its metrics, and by the weights that lie beside them, if they are small."""
    metrics, known = training.read(run).metrics, list[str]()
    if assets.is_small(run.folder):
        known.append(f"weights {weights_digest(run.folder)[:DIGITS]}")
    steps = f" of {count(int(metrics.steps[-1]) + 1, 'step')}" if metrics is not None else ""
    return f"{run.label} ({', '.join([*known, f'{METRICS}{steps}'])})"
