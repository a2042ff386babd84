"""Cached, shared, read-only resources: the two models, the documents, the traces.

Whatever is missing is raised as `Missing`, with the command that makes it; nothing is drawn here.
"""

import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from emo_viz.analysis.widths import difference, experts_by_layer
from emo_viz.server import assets, commands

if TYPE_CHECKING:
    from emo_viz.trace import Trace
    from model.run.inference import Encoded

ALIKE = {
    "num_hidden_layers": "layers",
    "num_experts_per_tok": "experts a token",
    "num_shared_experts": "shared experts",
}

DOCUMENT_COLUMNS = {"id", "domain", "source", "licence", "parent", "text"}


class Missing(Exception):
    """What was asked for is not here, or is of no use: a plain sentence, and the command (or a
    line for each of several) that makes it."""

    def __init__(self, sentence: str, command: str) -> None:
        super().__init__(sentence)
        self.sentence, self.command = sentence, command


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, shared by all visitors: hold it through work.run_exclusive.

    key: another one for other weights, configuration or tokenizer; caches go by it.
    """

    name: str
    label: str
    path: Path
    key: str
    model: Any
    tokenizer: Any
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Pair:
    """The two models that every page compares."""

    emo: LoadedModel
    standard: LoadedModel

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter((self.emo, self.standard))


def pair() -> Pair:
    """Both models of the pair, loaded once for the whole server.

    Raises Missing where there are none, or none that can stand side by side.
    """
    found = Pair(emo=_loaded("emo"), standard=_loaded("standard"))
    if misfit := _misfit(found.emo.key, found.standard.key, found):
        trained = (commands.TRAIN.format(name=name) for name in assets.MODEL_FOLDERS)
        raise Missing(misfit, "\n".join(trained))
    return found


@st.cache_resource(max_entries=4, show_spinner=False)
def _misfit(emo: str, standard: str, _found: Pair) -> str:
    """Why the two cannot stand side by side; "" if they can."""
    try:
        check_pair(_found)
    except ValueError as error:
        return str(error)
    return ""


def check_pair(found: Pair) -> None:
    """Raises ValueError for two models of which one picture would say something wrong."""
    for one in found:
        config = one.model.config
        if config.objective == "dense":
            raise ValueError(f"The {one.label} checkpoint is a dense model and has no routers.")
        experts = experts_by_layer(config)
        if 0 in experts:
            raise ValueError(
                f"The {one.label} checkpoint has no experts in layer {experts.index(0)}; the pages "
                "show models with a router in every layer."
            )
    emo, standard = (one.model.config for one in found)
    for field_name, words in ALIKE.items():
        ours, theirs = getattr(emo, field_name), getattr(standard, field_name)
        if ours != theirs:
            raise ValueError(
                f"The two models do not belong side by side: EMO has {ours} {words}, the standard "
                f"MoE {theirs}."
            )
    _check_experts(experts_by_layer(emo), experts_by_layer(standard))
    if found.emo.tokenizer.get_vocab() != found.standard.tokenizer.get_vocab():
        raise ValueError(
            "The two models have different tokenizers, so their tokens do not compare."
        )


def _check_experts(emo: tuple[int, ...], standard: tuple[int, ...]) -> None:
    """Raises ValueError unless the two have as many experts in each layer."""
    found = difference(emo, standard)
    if found is None:
        return
    each = len({*emo}) == len({*standard}) == 1
    where = "experts a layer" if each else f"experts in layer {found.layer}"
    raise ValueError(
        f"The two models do not belong side by side: EMO has {found.one} {where}, the standard MoE "
        f"{found.other}."
    )


def documents() -> pd.DataFrame:
    """The bundled documents, one a row; do not write into it. Raises Missing."""
    path = assets.documents_path()
    if not path.exists():
        raise Missing("The bundled documents are not here.", commands.DOCUMENTS)
    try:
        return _documents(path, assets.stamp(path))
    except ValueError as error:
        raise Missing(f"The file of documents {error}", commands.DOCUMENTS) from error


def calibration_documents() -> pd.DataFrame:
    """The documents that subsets are chosen from, one a row; do not write into it.

    Raises ValueError if there is no readable file of them.
    """
    path = assets.documents_path().with_name("calibration.parquet")
    if not path.exists():
        raise ValueError("The calibration documents are not here.")
    try:
        return _documents(path, assets.stamp(path))
    except ValueError as error:
        raise ValueError(f"The file of calibration documents {error}") from error


def encoded(loaded: LoadedModel, text: str, most: int) -> "Encoded":
    """A text as tokens of the pair, up to `most` with EOS. Raises ValueError if it has none."""
    return _encoded(loaded, loaded.key, text, most)


@st.cache_resource(max_entries=128, show_spinner=False)
def _encoded(_loaded: LoadedModel, key: str, text: str, most: int) -> "Encoded":
    from model.run.inference import encode

    return encode(_loaded.tokenizer, text, most)


def traces() -> dict[str, "Trace"]:
    """The recorded routing of the bundled documents, by model: "emo" and "standard".

    Raises Missing where one is not there or cannot be read.
    """
    return {name: _trace(name) for name in assets.MODEL_FOLDERS}


def _loaded(name: str) -> LoadedModel:
    path, command = assets.checkpoint_path(name), commands.TRAIN.format(name=name)
    if not (path / "config.json").exists():
        raise Missing(f"The {assets.MODEL_LABELS[name]} checkpoint is not here.", command)
    try:
        return _load(name, path, assets.stamp(path))
    except ValueError as error:
        raise Missing(str(error), command) from error


def _trace(name: str) -> "Trace":
    path = assets.trace_path(name)
    try:
        return _open_trace(path, assets.stamp(path))
    except ValueError as error:
        raise Missing(str(error), commands.RECORD.format(folder=path.name)) from error


@st.cache_resource(max_entries=2, show_spinner="Loading the model …")
def _load(name: str, path: Path, stamp: assets.Stamp) -> LoadedModel:
    import torch

    from model.run.loading import load_model, load_tokenizer

    # One text is too little work to share: a second thread waits for a core while the first spins.
    torch.set_num_threads(1)
    loaded = LoadedModel(
        name, assets.MODEL_LABELS[name], path, repr(stamp), load_model(path), load_tokenizer(path)
    )
    # torch and transformers leave some 400,000 objects behind that Streamlit's collection
    # would walk after every rerun; frozen, they are skipped.
    gc.collect()
    gc.freeze()
    return loaded


@st.cache_resource(max_entries=4, show_spinner=False)
def _documents(path: Path, stamp: assets.Stamp) -> pd.DataFrame:
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


@st.cache_resource(max_entries=4, show_spinner=False)
def _open_trace(path: Path, stamp: assets.Stamp) -> "Trace":
    from emo_viz.trace import Trace

    return Trace.open(path)
