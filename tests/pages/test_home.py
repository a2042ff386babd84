"""The home page: its sentences follow the files, and a missing file is said, not raised."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.testing.v1 import AppTest

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.curves import Measured, read_curves
from emo_viz.trace import Trace
from emo_viz.ui.home import page, prepare, sources
from tests.pages.opened import follow_link

SECONDS = 600


def home() -> AppTest:
    return follow_link("")


def words(at: AppTest) -> str:
    return "\n".join(part.value for part in [*at.markdown, *at.caption])


def test_experts_a_document_uses_are_those_of_the_traces(tiny_assets: Path):
    said = words(home())
    for name in ("emo-nano", "std-nano"):
        trace = Trace.open(tiny_assets / "traces" / name)
        layers = [np.sort(layer)[::-1] for slab in trace.activation for layer in slab]
        half = [1 + int((np.cumsum(x, dtype=float) < x.sum(dtype=float) / 2).sum()) for x in layers]
        assert f"**{np.mean(half):.1f}**" in said
        assert f"{np.mean([np.count_nonzero(x) for x in layers]):.1f}" in said
    assert "24 documents" in said


def test_the_losses_of_the_full_models_are_those_of_the_curves(tiny_assets: Path):
    found = Measured.of(read_curves(tiny_assets / "analysis" / "curves.parquet").rows)
    emo, standard = (found.full_loss(model).mean for model in ("emo-nano", "std-nano"))
    said = words(home())
    assert f"the loss in nats a token is **{emo:.3f}** in EMO, **{standard:.3f}** in" in said
    assert f"EMO less Standard MoE: **{emo - standard:+.3f}**" in said


def test_geometry_is_read_from_the_checkpoints(tiny_assets: Path):
    table = home().table[0].value
    assert table.loc["EMO", "Experts a layer"] == "15 routed + 1 shared"
    assert table.loc["EMO", "Experts a token"] == "3 routed + 1 shared"
    assert table["Layers"].tolist() == [2, 2]


def test_bundled_documents_are_counted(tiny_assets: Path):
    tokens = Trace.open(tiny_assets / "traces" / "emo-nano").manifest.tokens
    assert f"24 documents of 4 domains, {tokens:,} tokens" in words(home())


@pytest.mark.parametrize(
    ("lost", "command"),
    [
        ("traces/emo-nano", "python -m emo_viz record"),
        ("analysis", "python -m emo_viz curves"),
    ],
)
def test_a_missing_file_is_said_with_its_command(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, command: str
):
    folder = tmp_path / "assets"
    shutil.copytree(tiny_assets, folder)
    shutil.rmtree(folder / lost)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    assert any(code.value.startswith(command) for code in home().code)


def test_nothing_at_all_is_still_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path))
    at = home()
    assert "There is no checkpoint and no trace in" in words(at)
    assert at.code[0].value.startswith("python -m model.train")
    assert not at.table
    assert "Add a run" in [link.proto.label for link in at.get("page_link")]


def test_what_is_prepared_at_the_start_is_drawn_nowhere(tiny_assets: Path, caplog):
    st.cache_resource.clear()
    # Streamlit says there, for every drawing, that no visitor's page is being drawn.
    of_streamlit = logging.getLogger(get_script_run_ctx.__module__)
    of_streamlit.addHandler(caplog.handler)
    try:
        for step in prepare.steps():
            step()
    finally:
        of_streamlit.removeHandler(caplog.handler)
    assert "missing ScriptRunContext" not in caplog.text


def test_what_is_prepared_at_the_start_is_not_made_again(tiny_assets: Path, monkeypatch):
    for step in prepare.steps():
        step()
    made = []
    for owner, name in (
        (page.curves.Measured, "of"),
        (sources.routing, "coverage"),
        (page, "by_run"),
    ):
        monkeypatch.setattr(owner, name, lambda *_, what=name: made.append(what))
    at = home()
    assert not at.exception and not made


def test_the_likelihood_kept_lies_inside_its_interval():
    """exp(-0.5), exp(-0.7) and exp(-0.4): the greater loss keeps less."""
    kept = page.percent_kept(Interval(0.5, 0.4, 0.7, 9))
    assert (kept.mean, kept.low, kept.high, kept.n) == pytest.approx(
        (60.65, 49.66, 67.03, 9), abs=0.01
    )
