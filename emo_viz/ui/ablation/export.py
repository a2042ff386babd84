"""Subset ablation page: what can be taken along, the curve, the losses and the subset."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.curves import RANDOM, Measured
from emo_viz.server import commands
from emo_viz.server.library import LoadedModel
from emo_viz.ui.ablation import checkpoint, grid, slider
from emo_viz.ui.ablation.checkpoint import Way
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import WORTH_HERE, Choice, Study
from emo_viz.ui.parts import export, opened
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell.words import escape_markdown, with_commands
from model.files import weights_digest

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset


def offer(study: Study, choice: Choice, found: Measured | None, live: Live) -> None:
    """What the page shows, behind one button."""
    charts = {"Loss by experts kept": slider.KEY}
    tables = {
        "This document by experts kept": lambda: document_losses(study, live),
        "Losses of every token": lambda: token_losses(live),
    }
    if found is not None:
        points = found.table
        tables = {"Loss by experts kept": lambda: export.by_label(points, study.runs), **tables}
    if st.session_state.get(grid.OPEN):
        charts["Experts switched by hand"] = grid.KEY
    switched = "experts switched by hand" * bool(choice.switched)
    export.offer("subset ablation", study.runs, charts=charts, tables=tables, shown=switched)


def offer_cut(study: Study, choice: Choice, live: Live) -> None:
    """The subset, and the checkpoint that is cut by it."""
    icon, key = ":material/content_cut:", "subset_export"
    place = st.expander("Subset and checkpoint", icon=icon, key=key, on_change="rerun")
    if opened.is_open(place):
        with place:
            _subsets(study, choice, live)


def _subsets(study: Study, choice: Choice, live: Live) -> None:
    for run in study.runs:
        text = partial(subset_json, study, run.id, live.subsets[run.id])  # once it is asked for
        file = subset_file(run.id, choice, live)
        st.download_button(
            f"{name(run)} subset as JSON",
            text,
            file_name=file,
            mime="application/json",
            on_click="ignore",
            width="stretch",
        )
    st.caption(
        "A subset lists the kept expert ids of every layer and how they were chosen."
        + _chosen_for(choice, live)
    )
    if choice.keep_k == study.num_experts and not choice.switched:
        st.caption("All experts are kept, so there is nothing to cut.")
        return
    ways = {loaded.run: checkpoint.way(loaded, live) for loaded in study.models}
    _command(choice, live, ways)
    for loaded in study.models:
        if said := _said(study, loaded, live, ways[loaded.run]):
            st.caption(said)
            continue
        checkpoint.offer(study, live, loaded, Path(subset_file(loaded.run, choice, live)).stem)


def _chosen_for(choice: Choice, live: Live) -> str:
    """Whose experts these are where no control says it, as with documents of all domains."""
    if choice.method in (RANDOM, WORTH_HERE):
        return ""
    return f" These experts are chosen for **{escape_markdown(live.domain)}**."


def _command(choice: Choice, live: Live, ways: Mapping[str, Way]) -> None:
    """The command of the first run that can be cut so, if any can."""
    run = next((run for run, way in ways.items() if not way.why_not), None)
    if run is None:
        return
    file, same_size = subset_file(run, choice, live), ways[run].same_size
    alone = "these experts alone" if same_size is None else f"{same_size} experts a layer"
    st.caption(f"With its file, this writes a checkpoint that has {alone}:")
    command = commands.cut(run, file, Path(file).stem, same_size)
    st.code(command, language="bash", wrap_lines=True)


def _said(study: Study, loaded: LoadedModel, live: Live, way: Way) -> str:
    """Why a run has no button here; "" if it can be cut as it is shown."""
    run = name(study.runs[loaded.run])
    if way.why_not:
        return f"No checkpoint of {run} can be cut so. {with_commands(way.why_not)}"
    if way.same_size is None:
        return ""
    counts = set(map(len, live.subsets[loaded.run].experts))
    kept = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)}"
    of = ", equally shared among its groups" * (loaded.live.groups > 1)
    return (
        f"{run} keeps {kept} experts a layer here, and a checkpoint of its format has one number "
        f"for all layers{of}: with the option `--same-size {way.same_size}` the command fills the "
        "layers up with other experts."
    )


def subset_file(run: str, choice: Choice, live: Live) -> str:
    """What the file of the subset in view is called."""
    domain = live.domain.replace("/", "-")
    return f"{run}-{domain}-{choice.method}-{_number(choice)}.json"


def _number(choice: Choice) -> str:
    return f"{choice.keep_k}{'-by-hand' * bool(choice.switched)}"


def subset_json(study: Study, run: str, subset: "ExpertSubset") -> str:
    """With whose experts these are: `cut` takes no others'."""
    folder = study.models[run].path
    return replace(subset, model=folder.name, weights_sha256=weights_digest(folder)).to_json()


def document_losses(study: Study, live: Live) -> pd.DataFrame:
    """A row a run and number of experts kept: mean loss of the document shown, and how much more it
    is than with all experts, both in nats a token."""
    rows = [
        {
            "run": run.label,
            "keep_k": study.keep_of(run.id, stop),
            "loss_nats": float(np.nanmean(live.losses[stop][run.id])),
            "increase_nats": live.increase(run.id, stop),
        }
        for run in study.runs
        for stop in sorted(live.losses)
    ]
    return pd.DataFrame(rows)


def token_losses(live: Live) -> pd.DataFrame:
    """A row a token, in nats: its text, which of the tokens of a character one alone has, and what
    the page calls it, both as JSON, so that none is taken for something else."""
    columns: dict[str, Any] = {"token": range(1, len(live.pieces))}
    for column, words in (("text", live.pieces), ("label", live.labels)):
        columns[column] = [json.dumps(word, ensure_ascii=False) for word in words[1:]]
    for run, label in live.runs.labels.items():
        columns[f"loss_nats_full_{label}"] = live.full[run][1:]
        columns[f"loss_nats_cut_{label}"] = live.cut[run][1:]
    return pd.DataFrame(columns)
