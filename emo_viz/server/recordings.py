"""Traces of runs that cannot be run here: what a server wrote, or a model too large to load."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emo_viz.analysis.routed import Numbered, common_layers
from emo_viz.figures.kept import beside
from emo_viz.server import assets, caches, library
from emo_viz.server.library import Missing
from emo_viz.trace.absent import Absent
from emo_viz.trace.schema import MANIFEST

if TYPE_CHECKING:
    from emo_viz.trace import Trace

IMPORT = "python -m emo_viz import FILE --out {folder}"


def without_checkpoint() -> list[str]:
    """Ids of the runs that have a trace, where none of those that are shown can be run; else none.

    Raises Missing where there is no run at all.
    """
    runs = library.comparison().ids
    return [] if any(map(library.can_run, runs)) else of_shown()


def of_shown() -> list[str]:
    """Ids of the runs that are shown and have a trace. Raises Missing where there is no run."""
    runs = library.comparison().ids
    return [run for run in runs if (assets.trace_path(run) / MANIFEST).is_file()]


def opened(name: str) -> "Trace":
    """The trace of a run. Raises Missing where it cannot be read."""
    path = assets.trace_path(name)
    try:
        # The manifest says the sizes of all files and when they were made.
        return _open(path, (path / MANIFEST).read_bytes())
    except (ValueError, OSError) as error:
        raise Missing(str(error), IMPORT.format(folder=path)) from error


@caches.for_all(4)
def _open(path: Path, manifest: bytes) -> "Trace":
    from emo_viz.trace import Trace

    return Trace.open(path)


def readable(run: str) -> pd.DataFrame:
    """Documents of a recording whose texts are known, by it or by the held-out documents; row:
    where they are in it. A text that only its tokens say is put together as it is shown
    (`text_of`). Raises Missing where the recording cannot be read."""
    stored = assets.content(library.documents_path())
    return _readable(opened(run), f"{library.trace_key(run)} {stored}")


@caches.for_all(4)
def _readable(_trace: "Trace", key: str) -> pd.DataFrame:
    trace = _trace
    frame = trace.documents if trace.has("text") else trace.facts.assign(text="")
    frame = frame.assign(id=frame["id"].astype(str), row=np.arange(len(frame)))
    texts, held_out = frame["text"].fillna("").astype(str), _held_out_texts()
    known = frame["id"].map(lambda name: held_out.get(name, ""))
    texts = texts.where(texts.str.strip() != "", known)
    blank = texts.str.strip() == ""
    texts = texts.where(~blank, frame["id"])
    words = ["domain", "parent", "source", "licence"]
    named = {name: frame[name].fillna("") for name in words}
    shown = frame.assign(text=texts, in_tokens=blank, **named)
    return shown if trace.has("token_texts") else shown[~blank]


def _held_out_texts() -> dict[str, str]:
    try:
        table = library.documents()
    except Missing:
        return {}
    return dict(zip(table["id"].astype(str), table["text"], strict=True))


def text_of(trace: "Trace", document: pd.Series) -> str:
    """Of a `readable` document. Raises ValueError for one that is not known after all."""
    if not document["in_tokens"]:
        return str(document["text"])
    try:
        return "".join(trace.recorded(int(document["row"])).token_texts[1:])
    except Absent as error:
        raise ValueError(str(error)) from error


def beside_model() -> str:
    """The run whose recording the page Token routing shows beside the one model that can be run
    here; "" where it shows models, or recordings alone. Raises Missing where there is no run."""
    runs = library.comparison().ids
    others = [run for run in runs if not library.can_run(run)]
    if len(runs) != 2 or len(others) != 1 or others[0] not in of_shown():
        return ""
    try:
        shown = opened(others[0]).has_tokens and not readable(others[0]).empty
    except Missing:
        return ""
    return others[0] if shown else ""


def of_routing(runs: Sequence[str]) -> frozenset[str]:
    """Ids of the documents that the page Token routing opens of the comparison; where it shows
    recordings alone, those of these runs. Raises Missing where there is no run."""
    shown = library.comparison().ids
    if not any(map(library.can_run, shown)):
        found = [run for run in runs if run in of_shown()]
        return frozenset().union(*(_ids(opened(run), library.trace_key(run)) for run in found))
    if other := beside_model():
        texts = readable(other)
        return beside(texts, "ids", lambda: frozenset(texts["id"]))
    return _held_out_ids(assets.content(library.documents_path()))


@caches.for_all(2)
def _held_out_ids(key: str) -> frozenset[str]:
    return frozenset(_held_out_texts())


@caches.for_all(4)
def _ids(_trace: "Trace", key: str) -> frozenset[str]:
    return frozenset(_trace.facts["id"].astype(str))


def layer_of_routing(run: str, own: Numbered, layer: int) -> int | None:
    """What the page Token routing calls a layer of a run, None where it does not show it.

    own: the run's layers. layer: the model's own number.
    """
    shown = library.comparison().ids
    if not any(map(library.can_run, shown)):
        return layer
    place = own.numbers.index(layer)
    if not beside_model():  # models: the layers that have a router are counted
        return own.sparse.index(place)
    numbered = [own if one == run else _numbered(one) for one in shown]
    if numbered[0] is None or numbered[1] is None:
        return layer
    try:
        both = common_layers(numbered[0], numbered[1], (shown[0], shown[1]))
    except ValueError:  # one of them is shown, with its own numbers
        return layer
    places = both.first if run == shown[0] else both.second
    return both.names[places.index(place)] if place in places else None


def _numbered(run: str) -> Numbered | None:
    """The layers of a run as its recording has them; None without one."""
    if run not in of_shown():
        return None
    return Numbered.of_trace(opened(run))
