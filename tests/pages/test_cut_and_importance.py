"""The subset ablation page: the cut checkpoint to take along, and what every expert is worth."""

import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import streamlit as st

from emo_viz.analysis.ablation import ranked_subset
from emo_viz.server import jobs
from model.run.importance import expert_importance
from model.run.live import open_live
from model.run.loading import load_model
from model.run.subset import subset_from_scores
from tests.pages.ablation_page import lines, losses, opened, table, words
from tests.pages.opened import run
from tests.pages.test_subset_ablation import SECONDS, tokens_of


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets."""


def test_the_cut_checkpoint_is_made_and_is_the_model_that_was_shown(
    tiny_assets, tmp_path, everything_open
):
    at = opened(subset_domain="garden", k="8")
    next(
        b for b in at.button if b.label.startswith("Make the cut checkpoint of EMO, about")
    ).click()
    run(at)
    key = next(key for key in jobs.registry()._jobs if key.startswith("cut checkpoint|emo-nano"))
    job = jobs.registry().find(key)
    job.wait(SECONDS)
    run(at)
    assert any(b.proto.label.startswith("Cut checkpoint of EMO") for b in at.get("download_button"))
    with zipfile.ZipFile(job.result.path) as file:
        file.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    document = tokens_of(tiny_assets, "heldout-garden")[0]
    cut = losses(load_model(folder), document)
    assert table(at)["EMO"][1] == f"{cut.mean():.3f}"


def test_every_expert_has_its_importance_beside_its_use(tiny_assets, models, monkeypatch):
    expander = st.expander

    def opened_expander(label: str, **how):
        place = expander(label, **how)
        if how.get("on_change") == "rerun":
            place = mock.MagicMock(wraps=place, open=True)
        return place

    monkeypatch.setattr(st, "expander", opened_expander)
    at = opened(subset_domain="garden", k="8")
    (shown,) = [each.value for each in at.dataframe if "Importance (nats a token)" in each.value]
    assert len(shown) == 2 * 2 * 15
    live = open_live(tiny_assets / "checkpoints" / "emo-nano")
    document = tokens_of(tiny_assets, "heldout-garden")[0]
    worth = expert_importance(live, [document])
    best = shown[shown["Run"] == "EMO"].iloc[0]
    assert best["Importance (nats a token)"] == pytest.approx(worth.max(), abs=1e-5)
    assert np.unravel_index(worth.argmax(), worth.shape) == (best["Layer"], best["Expert"])


BY_WORTH = "Importance (first-order)"


@pytest.mark.parametrize(
    ("way", "part"),
    [("Importance (first-order)", "calibration"), ("Importance on this document", "heldout")],
)
def test_experts_are_chosen_by_importance(tiny_assets, models, way: str, part: str):
    at = opened(subset_domain="garden", k="8", subset_method=way)
    document = tokens_of(tiny_assets, "heldout-garden")[0]
    texts = tokens_of(tiny_assets, f"{part}-garden")
    live = open_live(tiny_assets / "checkpoints" / "emo-nano")
    worth = expert_importance(live, texts[:1] if part == "heldout" else texts)
    config = models["emo-nano"].config
    chosen = subset_from_scores(worth, 8, config, "")
    cut = losses(models["emo-nano"], document, chosen)
    assert table(at)["EMO"][1] == f"{cut.mean():.3f}"
    assert table(at) != table(opened(subset_domain="garden", k="8"))
    assert "no curves are measured of experts chosen by importance" in lines(at)["all"]
    assert "a first-order estimate from one backward pass" in words(at)
    assert [button.label for button in at.button if "Measure" in button.label] == [
        "Measure all domains again"
    ]


def test_importance_stands_beside_router_probability_in_measured_numbers(
    tiny_assets, models, curves
):
    said = next(
        each.value.replace("\\", "")
        for each in opened(subset_domain="garden", k="8", subset_method=BY_WORTH).caption
        if each.value.startswith("Importance against router probability")
    )
    documents, calibration = (
        tokens_of(tiny_assets, f"{part}-garden") for part in ("heldout", "calibration")
    )
    lost = []
    for name, model in models.items():
        live = open_live(tiny_assets / "checkpoints" / name)
        worth = subset_from_scores(expert_importance(live, calibration), 8, model.config, "")
        ranking = np.asarray(curves.info["ranking"][name]["garden"])
        ranked = ranked_subset(ranking, 8, live.geometry, ())
        full, one, other = (
            np.concatenate([losses(model, ids, subset) for ids in documents]).mean()
            for subset in (None, worth, ranked)
        )
        lost.append((one - full, other - full))
        assert f"**{one - full:+.3f}** against **{other - full:+.3f}** in" in said
    worse = [one > other for one, other in lost]
    assert ("Router probability chooses better here" in said) == all(worse)
    assert "8 of 16 experts, on 6 held-out documents of garden" in said
    whole = opened(subset_domain="garden", k="16", subset_method=BY_WORTH).caption
    assert not any("against router" in each.value for each in whole)
