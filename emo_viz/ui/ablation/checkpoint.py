"""Subset ablation page: the cut model itself, made in the background as one file to take along."""

import hashlib
import shutil
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import streamlit as st

from emo_viz.runs.progress import Report
from emo_viz.server.jobs import Job, registry
from emo_viz.server.library import LoadedModel
from emo_viz.ui.ablation import sizes
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import Study
from emo_viz.ui.parts import progress
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import words
from model.files import weight_files, weights_digest

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset

MOST = 2_000_000_000  # bytes: a browser takes a larger file badly, and the command writes it too


@dataclass(frozen=True)
class Way:
    """How the subset in view becomes a checkpoint: with its experts alone, with others that fill
    every layer up to same_size, or not at all, for a reason."""

    same_size: int | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Zipped:
    """The file, and the folder that holds it as long as the server remembers the job."""

    path: Path
    folder: "TemporaryDirectory[str]"


def way(loaded: LoadedModel, live: Live) -> Way:
    """As the command would find, from the config and the headers of the files."""
    subset = live.subsets[loaded.run]
    return _way(loaded, f"{loaded.key} {_digest(subset)}", subset)


@st.cache_resource(max_entries=256, show_spinner=False)
def _way(_loaded: LoadedModel, key: str, _subset: "ExpertSubset") -> Way:
    why_not = _why_not(_loaded.path, _subset, None)
    if not why_not:
        return Way()
    size = _filled(_loaded, _subset)
    return Way(why_not=why_not) if _why_not(_loaded.path, _subset, size) else Way(size)


def _why_not(parent: Path, subset: "ExpertSubset", same_size: int | None) -> str:
    from model.run.cut import plan_cut

    try:
        plan_cut(parent, subset, same_size)
    except ValueError as error:
        return str(error).removeprefix(f"{parent}: ")
    return ""


def _filled(loaded: LoadedModel, subset: "ExpertSubset") -> int:
    """The fewest experts to which all layers, and all groups in them, can be filled up."""
    groups = loaded.live.groups
    width = max(loaded.routed) // groups
    kept = [Counter(expert // width for expert in layer) for layer in subset.experts]
    return groups * max(max(layer.values()) for layer in kept)


def offer(study: Study, live: Live, loaded: LoadedModel, stem: str) -> None:
    """One run's cut checkpoint: its size first, then a job with progress, then the file."""
    run = study.runs[loaded.run]
    size = estimate(study, loaded, live.keep_k)
    if size > MOST:
        st.caption(
            f"The cut checkpoint of {name(run)} would have about {words.stored(size)}, too much "
            "for a browser; the command above writes it."
        )
        return
    job = registry().find(_key(loaded, live))
    if job is not None and job.running:
        progress.watch(job, f"Cutting {run.label}", "files")
        return
    progress.failure(job, "The cut")
    if job is not None and isinstance(job.result, Zipped):
        _download(job.result, run.label)
        return
    label = f"Make the cut checkpoint of {name(run)}, about {words.stored(size)}"
    if st.button(label, key=f"subset_cut_{loaded.run}", width="stretch"):
        start(loaded, live, stem)
        st.rerun()


def _download(made: Zipped, label: str) -> None:
    st.download_button(
        f"Cut checkpoint of {label}, {words.stored(made.path.stat().st_size)}",
        lambda: made.path.read_bytes(),
        file_name=made.path.name,
        mime="application/zip",
        on_click="ignore",
        width="stretch",
    )


def estimate(study: Study, loaded: LoadedModel, keep_k: int) -> int:
    """Bytes of the file: the kept share of the checkpoint's weights as they are stored."""
    stored = sum(file.stat().st_size for file in weight_files(loaded.path))
    own = sizes.weights(loaded, loaded.key)
    if own is None:
        return stored
    return round(stored * own.kept(study.keep_of(loaded.run, keep_k)) / own.parameters)


def _key(loaded: LoadedModel, live: Live) -> str:
    experts = _digest(live.subsets[loaded.run])
    return "|".join(["cut checkpoint", loaded.run, weights_digest(loaded.path), experts])


def _digest(subset: "ExpertSubset") -> str:
    return hashlib.sha256(repr(subset.experts).encode()).hexdigest()


def start(loaded: LoadedModel, live: Live, stem: str) -> Job:
    """Cut the checkpoint as `python -m emo_viz cut` does, into one zip file."""
    parent, subset = loaded.path, live.subsets[loaded.run]
    return registry().start(
        _key(loaded, live), lambda report: _zipped(parent, subset, stem, report)
    )


def _zipped(parent: Path, subset: "ExpertSubset", stem: str, report: Report) -> Zipped:
    from model.run.cut import cut_checkpoint

    folder = TemporaryDirectory(prefix="emo-viz-cut-")
    out = Path(folder.name) / stem
    cut_checkpoint(parent, subset, out, report)
    path = out.with_name(f"{stem}.zip")
    # Weights do not become smaller by compression worth its time.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for each in sorted(out.iterdir()):
            file.write(each, f"{stem}/{each.name}")
    shutil.rmtree(out)
    return Zipped(path, folder)
