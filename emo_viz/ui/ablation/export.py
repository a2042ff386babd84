"""Subset ablation page: what can be taken along, the curve, the losses and the subset."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from emo_viz.analysis.curves import Measured
from emo_viz.server import commands
from emo_viz.ui.ablation import checkpoint, grid, slider
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import Choice, Study
from emo_viz.ui.parts import export, opened
from emo_viz.ui.parts.together import name
from model.files import weights_digest

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset


def offer(study: Study, choice: Choice, found: Measured | None, live: Live) -> None:
    """What the page shows, behind one button."""
    charts = {"Loss by experts kept": slider.KEY}
    tables = {"Losses of every token": lambda: token_losses(live)}
    if found is not None:
        tables = {"Loss by experts kept": lambda: found.table, **tables}
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
        "A subset lists the kept expert ids of every layer and how they were chosen. With its "
        "file, this writes a checkpoint that has these experts alone:"
    )
    first = study.runs.first.id
    file = subset_file(first, choice, live)
    st.code(commands.cut(first, file, Path(file).stem), language="bash", wrap_lines=True)
    if choice.keep_k == study.num_experts and not choice.switched:
        st.caption("All experts are kept, so there is nothing to cut.")
        return
    for loaded in study.models:
        if uneven := _uneven(study, loaded.run, live):
            st.caption(uneven)
            continue
        checkpoint.offer(study, live, loaded, Path(subset_file(loaded.run, choice, live)).stem)


def _uneven(study: Study, run: str, live: Live) -> str:
    """Why a family whose config has one number for all layers cannot be cut so; "" if it can."""
    counts = set(map(len, live.subsets[run].experts))
    if study.models[run].live.is_emo or len(counts) == 1:
        return ""
    return (
        f"{name(study.runs[run])} keeps {min(counts)} to {max(counts)} experts a layer here, and a "
        "checkpoint of its format has one number for all layers: with the option "
        f"`--same-size {max(counts)}` the command fills the layers up with other experts."
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


def token_losses(live: Live) -> pd.DataFrame:
    """A row a token, in nats: its text, which of the tokens of a character one alone has, and what
    the page calls it, both as JSON, so that none is taken for something else."""
    columns: dict[str, Any] = {"token": range(1, len(live.pieces))}
    for column, words in (("text", live.pieces), ("label", live.labels)):
        columns[column] = [json.dumps(word, ensure_ascii=False) for word in words[1:]]
    for run in live.runs.ids:
        columns |= {f"{run}_full": live.full[run][1:], f"{run}_cut": live.cut[run][1:]}
    return pd.DataFrame(columns)
