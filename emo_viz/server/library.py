"""Cached, shared, read-only resources: the runs, their models, the documents, the traces.

Whatever is missing is raised as `Missing`, with the command that makes it; nothing is drawn here.
"""

import gc
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from emo_viz.analysis.checkpoints import check_routers, vocabulary_digest
from emo_viz.analysis.origins import Origins, of_trace
from emo_viz.analysis.projection import content_key
from emo_viz.analysis.runs import Comparison, Facts, Run, compare, default_of, label_of
from emo_viz.analysis.widths import routed_by_layer
from emo_viz.figures.kept import beside
from emo_viz.server import assets, caches, catalogue, commands, imports
from model.files import read_json

if TYPE_CHECKING:
    from emo_viz.trace import Trace
    from model.run.inference import Encoded
    from model.run.live import Live

DEVICE, CPU = "EMO_VIZ_DEVICE", "cpu"
DTYPE, FULL, STORED = "EMO_VIZ_DTYPE", "float32", "auto"
DTYPES = (FULL, "bfloat16", "float16")
STORED_AS = {"F32": FULL, "BF16": "bfloat16", "F16": "float16"}  # as safetensors calls them
CHOSEN = "library_chosen"  # in the session: of one visitor alone
DOCUMENT_COLUMNS = {"id", "domain", "source", "licence", "parent", "text"}


class Missing(Exception):
    """What was asked for is not here, or is of no use: a plain sentence, and the command (or a
    line for each of several) that makes it; "" for what the Library page makes."""

    def __init__(self, sentence: str, command: str) -> None:
        super().__init__(sentence)
        self.sentence, self.command = sentence, command


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, shared by all visitors: hold it through work.run_exclusive.

    run: its id. key: another one for other weights, configuration, tokenizer or device; caches go
    by it. live: what it is asked through, of EMO's own format or of another family.
    """

    run: str
    path: Path
    key: str
    live: "Live"
    tokenizer: Any
    facts: Facts
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def label(self) -> str:
        """What it is called to whoever waits for it."""
        return label_of(self.run)

    @property
    def model(self) -> Any:
        """As transformers has it."""
        return self.live.model

    @property
    def routed(self) -> tuple[int, ...]:
        """Routed experts of every layer that has a router."""
        return routed_by_layer(self.live.geometry)


@dataclass(frozen=True)
class Models:
    """The models of a comparison, in its order. left_out: a sentence for each run without one."""

    comparison: Comparison
    loaded: tuple[LoadedModel, ...]
    left_out: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter(self.loaded)

    def __getitem__(self, run: str) -> LoadedModel:
        return next(one for one in self.loaded if one.run == run)

    @property
    def first(self) -> LoadedModel:
        return self.loaded[0]

    def of(self, comparison: Comparison) -> "Models":
        """Those of some of the runs."""
        loaded = tuple(self[run.id] for run in comparison)
        return Models(comparison, loaded, self.left_out)


@dataclass(frozen=True)
class Recorded:
    """The traces of a comparison by run id. left_out: a sentence for each run without one;
    unrecorded: their ids."""

    comparison: Comparison
    traces: "dict[str, Trace]"
    left_out: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()


def default() -> Comparison:
    """What is shown unless asked for another: the bundled runs that are here, else the first two.

    Raises Missing where there is no run at all.
    """
    try:
        return default_of(assets.runs())
    except ValueError as error:
        said = f"There is no checkpoint and no trace in {assets.root()}."
        raise Missing(said, commands.TRAIN) from error


def choose(runs: Sequence[Run]) -> None:
    """Have this visitor's pages show these runs: one or two of `assets.runs()`."""
    caches.for_visitor()[CHOSEN] = compare(runs)


def comparison() -> Comparison:
    """What this visitor's pages show: what was chosen, else the default. Raises Missing."""
    chosen: Comparison | None = caches.for_visitor().get(CHOSEN)
    return default() if chosen is None else chosen


def models(device: str = "") -> Models:
    """The models of the comparison, loaded once for the whole server.

    device: cpu, cuda, cuda:1, ..; the one of EMO_VIZ_DEVICE unless it is given, or the CPU. A run
    without a checkpoint of use is left out. Raises Missing where none has one, or for a device that
    is not there.
    """
    device = _device(device)
    runs, loaded, left_out = comparison(), list[LoadedModel](), list[str]()
    for run in runs:
        try:
            loaded.append(_loaded(run, device, _dtype(run.id)))
        except ValueError as error:
            left_out.append(str(error))
    if not loaded:
        raise Missing(" ".join(left_out), commands.train(runs.ids))
    known = [replace(runs[one.run], facts=one.facts) for one in loaded]
    return Models(compare(known), tuple(loaded), tuple(left_out))


def model(run: Run, dtype: str = "") -> LoadedModel:
    """The model of one run, computing in a dtype of torch, on the device of EMO_VIZ_DEVICE.

    dtype: that of EMO_VIZ_DTYPE unless it is given, or float32. Raises Missing where it cannot.
    """
    try:
        return _loaded(run, _device(), dtype or _dtype(run.id))
    except ValueError as error:
        raise Missing(str(error), commands.train([run.id])) from error


def can_run(run: str) -> bool:
    """Whether the pages can run the model: its checkpoint is here, of whatever family."""
    return (assets.checkpoint_path(run) / "config.json").exists()


def is_emo(run: str) -> bool:
    """Whether a checkpoint is here that is, or should be, of EMO's own architecture."""
    try:
        config = read_json(assets.checkpoint_path(run) / "config.json")
    except ValueError:
        return (assets.checkpoint_path(run) / "config.json").exists()  # and it says why it cannot
    return bool(config.get("model_type", "emo") == "emo")


def documents_path(runs: Sequence[str] | None = None) -> Path:
    """The file of `documents`, there or not."""
    if runs is None:
        try:
            runs = comparison().ids
        except Missing:
            runs = ()
    return assets.documents_path(runs)


def documents(runs: Sequence[str] | None = None) -> pd.DataFrame:
    """The held-out documents of the comparison, or of these runs, one a row; do not write into it.

    They are those that lie with the first of the runs that any lie with: the bundled ones, or those
    of a pair of the user's own. Raises Missing.
    """
    path = documents_path(runs)
    if not path.exists():
        raise Missing(f"The held-out documents are not here: {path}.", commands.documents(path))
    try:
        return _documents(path, assets.content(path))
    except ValueError as error:
        raise Missing(f"The file of documents {error}", commands.documents(path)) from error


def whose_documents() -> str:
    """Whose the documents of the comparison are: "Bundled", or "Your"."""
    near = next((run for run in comparison().ids if assets.place_of(run)), None)
    return "Bundled" if near is None or assets.is_bundled(near) else "Your"


def row_of(documents: pd.DataFrame, document: str) -> pd.Series:
    """The row of one of some shared documents, by its id; do not write into it."""
    return beside(
        documents, ("row", document), lambda: documents[documents["id"] == document].iloc[0]
    )


def calibration_documents() -> pd.DataFrame:
    """The documents that subsets are chosen from, one a row; do not write into it.

    Raises ValueError if there is no readable file of them.
    """
    path = documents_path().with_name("calibration.parquet")
    if not path.exists():
        raise ValueError("The calibration documents are not here.")
    try:
        return _documents(path, assets.content(path))
    except ValueError as error:
        raise ValueError(f"The file of calibration documents {error}") from error


def encoded(loaded: LoadedModel, text: str, most: int) -> "Encoded":
    """A text as tokens of a model, up to `most` with EOS. Raises ValueError if it has none."""
    return _encoded(loaded, loaded.key, text, most)


@caches.for_all(128)
def _encoded(_loaded: LoadedModel, key: str, text: str, most: int) -> "Encoded":
    return _loaded.live.encode(text, most)


def traces() -> Recorded:
    """The recorded routing of the documents, by run.

    A run without a trace is left out. Raises Missing where none has one, or one cannot be read.
    """
    runs = comparison()
    have = [run for run in runs if assets.trace_path(run.id).exists()]
    if not have:
        said = f"There is no trace of {runs.names} here."
        raise Missing(said, commands.each(commands.RECORD, runs.ids))
    found = {run.id: trace(run.id) for run in have}
    known = [
        replace(run, facts=_trace_facts(run.id, trace_key(run.id), found[run.id])) for run in have
    ]
    lacking = [run for run in runs if run not in have]
    left_out = (f"There is no trace of {run.label} here." for run in lacking)
    return Recorded(compare(known), found, tuple(left_out), tuple(run.id for run in lacking))


def trace(run: str) -> "Trace":
    """The trace of a run. Raises Missing where it is not there or cannot be read."""
    path = assets.trace_path(run)
    if not path.exists():
        said = f"There is no trace of {label_of(run)} here."
        raise Missing(said, commands.each(commands.RECORD, [run]))
    try:
        return _open_trace(path, trace_key(run))
    except ValueError as error:
        raise Missing(str(error), commands.each(commands.RECORD, [run])) from error


def trace_key(run: str) -> str:
    """What caches of the trace of a run go by."""
    return assets.content(assets.trace_path(run))


def trace_origins(run: str, trace: "Trace") -> Origins:
    """What the trace of a run was recorded from."""
    return _trace_origins(run, trace_key(run), trace)


def _device(name: str = "") -> str:
    """The one asked for, else that of EMO_VIZ_DEVICE; raises Missing for one that is not there."""
    name = name or os.environ.get(DEVICE) or CPU
    if name == CPU:  # which is always there; torch takes a second to import
        return name
    imports.for_models()
    from model.families.opening import device_of

    try:
        if device_of(name) is not None:
            return name
    except ValueError:
        pass
    raise Missing(
        f"There is no device {name!r} here; set {DEVICE} to cpu, cuda, cuda:1, .., or leave it "
        "out for the CPU.",
        f"{DEVICE}=cpu streamlit run app.py",
    )


def _dtype(run: str) -> str:
    """The type that the pages run a model in: that of EMO_VIZ_DTYPE, or float32; "auto" is the one
    that most of its weights are stored in. Raises Missing for another word."""
    name = os.environ.get(DTYPE) or FULL
    if name == STORED:
        return _stored_dtype(assets.checkpoint_path(run))
    if name in DTYPES:
        return name
    raise Missing(
        f"There is no type {name!r} to run models in; set {DTYPE} to {', '.join(DTYPES)} or "
        f"{STORED}, or leave it out for {FULL}.",
        f"{DTYPE}={FULL} streamlit run app.py",
    )


def _stored_dtype(checkpoint: Path) -> str:
    """float32 where it is another one than can be run, or the checkpoint cannot be read."""
    try:
        stored = catalogue.stored_types(checkpoint)
    except ValueError:  # whoever opens it says what is wrong
        return FULL
    return STORED_AS.get(max(stored, key=stored.__getitem__, default=""), FULL)


def _loaded(run: Run, device: str, dtype: str) -> LoadedModel:
    """Raises ValueError for a run without a checkpoint, or with one that is of no use."""
    path = assets.checkpoint_path(run.id)
    if not (path / "config.json").exists():
        raise ValueError(f"There is no checkpoint of {run.label} here.")
    return _load(run.id, path, assets.content(path), device, dtype)


def warm_up(run: str) -> None:
    """Load what the pages would of a run's model, unless it is large: before anybody asks for it.

    Outside of any visitor's session. Raises ValueError for a checkpoint that is of no use.
    """
    path = assets.checkpoint_path(run)
    if can_run(run) and assets.is_small(path):
        _hold(run, path, assets.content(path), _device(), _dtype(run))


@caches.for_all(4, "Loading the model …")
def _load(run: str, path: Path, key: str, device: str, dtype: str) -> LoadedModel:
    return _hold(run, path, key, device, dtype)


# Apart from the one with the spinner, which needs a visitor to show it to.
@caches.for_all(4)
def _hold(run: str, path: Path, key: str, device: str, dtype: str) -> LoadedModel:
    imports.for_models()
    import torch

    from model.run.live import open_live

    # One text is too little work to share: a second thread waits for a core while the first spins.
    torch.set_num_threads(1)
    live = open_live(path, device, dtype)
    if live.is_emo:
        check_routers(live.geometry, path)
    facts = Facts(routed_by_layer(live.geometry), vocabulary_digest(live.tokenizer))
    key += _suffix(device, CPU) + _suffix(dtype, FULL)
    loaded = LoadedModel(run, path, key, live, live.tokenizer, facts)
    # torch and transformers leave some 400,000 objects behind that Streamlit's collection
    # would walk after every rerun; frozen, they are skipped.
    gc.collect()
    gc.freeze()
    return loaded


def _suffix(value: str, usual: str) -> str:
    return "" if value == usual else f" {value}"


@caches.for_all(8)
def _trace_facts(run: str, key: str, _trace: "Trace") -> Facts:
    ids, texts = content_key(_trace.facts["id"]), _trace_origins(run, key, _trace).documents
    return Facts(_trace.manifest.model.routed, documents=ids, texts=texts)


@caches.for_all(8)
def _trace_origins(run: str, key: str, _trace: "Trace") -> Origins:
    return of_trace(_trace, run)


@caches.for_all(4)
def _documents(path: Path, key: str) -> pd.DataFrame:
    """Raises ValueError, in words that follow "The file", for what is no table of documents."""
    import pyarrow as pa

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"cannot be read: {path}.") from error
    if lacking := sorted(DOCUMENT_COLUMNS - set(table.columns)):
        raise ValueError(f"lacks {', '.join(lacking)}: {path}.")
    if table.empty:
        raise ValueError(f"holds none: {path}.")
    for name in ("id", "domain", "text"):
        if not all(isinstance(value, str) and value.strip() for value in table[name]):
            raise ValueError(f"has rows without {name}: {path}.")
    if table["id"].duplicated().any():
        raise ValueError(f"has two documents of one id: {path}.")
    return table


@caches.for_all(4)
def _open_trace(path: Path, key: str) -> "Trace":
    from emo_viz.trace import Trace

    return Trace.open(path)
