"""Subset ablation page: what can be taken along, the curve, the losses and the subset."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from emo_viz.analysis.curves import Measured
from emo_viz.server import commands
from emo_viz.ui.ablation import checkpoint
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import Choice, Study
from emo_viz.ui.parts.together import name
from model.files import weights_digest

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset


def offer(study: Study, choice: Choice, found: Measured | None, live: Live) -> None:
    """Everything behind one button."""
    with st.popover("Export", icon=":material/download:", key="subset_export"):
        if found is not None:
            where = (choice.domain or "all-domains").replace("/", "-")
            _file("Curve as CSV", found.table.to_csv(index=False), f"curve-{where}.csv")
        st.download_button(
            "Token losses as CSV",
            lambda: _token_losses(live),
            file_name=f"token-losses-{choice.document}-{choice.method}-{_number(choice)}.csv",
            mime="text/csv",
            on_click="ignore",
            width="stretch",
            help="Of the document shown: each token with all experts and with the subset.",
        )
        _subsets(study, choice, live)


def _file(label: str, text: str, file_name: str, mime: str = "text/csv") -> None:
    st.download_button(
        label, text, file_name=file_name, mime=mime, on_click="ignore", width="stretch"
    )


def _subsets(study: Study, choice: Choice, live: Live) -> None:
    if not all(one.live.is_emo for one in study.models):
        st.caption(
            "Subset files are for `cut`, which takes EMO's own format alone, so there is no cut "
            "checkpoint of these models either."
        )
        return
    for run in study.runs:
        text = subset_json(study, run.id, live.subsets[run.id])
        file = subset_file(run.id, choice, live)
        _file(f"{name(run)} subset as JSON", text, file, "application/json")
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
        checkpoint.offer(study, live, loaded, Path(subset_file(loaded.run, choice, live)).stem)


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


def _token_losses(live: Live) -> str:
    """A row a token; its text as JSON, so that no spreadsheet takes one for a formula."""
    texts = [json.dumps(piece, ensure_ascii=False) for piece in live.pieces[1:]]
    columns: dict[str, Any] = {"token": range(1, len(live.pieces)), "text": texts}
    for run in live.runs.ids:
        columns |= {f"{run}_full": live.full[run][1:], f"{run}_cut": live.cut[run][1:]}
    return pd.DataFrame(columns).to_csv(index=False)
