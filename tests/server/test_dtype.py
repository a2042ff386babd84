"""EMO_VIZ_DTYPE: the type that the pages run models in, with a sentence for another word."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emo_viz.analysis.runs import run_at
from emo_viz.server import library
from tests.pages.opened import follow_link, texts

ABLATION, ROUTING = "pages/3_Subset_ablation.py", "pages/1_Token_routing.py"


@pytest.fixture(autouse=True)
def assets(tiny_assets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tiny_assets))
    return tiny_assets


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_models_are_run_in_the_type_asked_for(
    assets: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv("EMO_VIZ_DTYPE", name)
    loaded = library.model(run_at(assets, "emo-nano"))
    assert {weight.dtype for weight in loaded.model.parameters()} == {getattr(torch, name)}
    ids = np.array([0, 5, 6, 7, 8])
    losses = loaded.live.losses(ids)
    monkeypatch.delenv("EMO_VIZ_DTYPE")
    usual = library.model(run_at(assets, "emo-nano"))
    assert usual.key == loaded.key or name != "float32"
    np.testing.assert_allclose(losses[1:], usual.live.losses(ids)[1:], atol=0.2)


def test_auto_is_how_most_of_the_weights_are_stored(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "assets" / "checkpoints" / "stored"
    folder.parent.mkdir(parents=True)
    source = assets / "checkpoints" / "emo-nano"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(source / "model.safetensors")
    halves = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "assets"))
    monkeypatch.setenv("EMO_VIZ_DTYPE", "auto")
    run = run_at(tmp_path / "assets", "stored")
    assert library.model(run).model.dtype == torch.bfloat16
    monkeypatch.delenv("EMO_VIZ_DTYPE")
    assert library.model(run).model.dtype == torch.float32


def test_another_word_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMO_VIZ_DTYPE", "int4")
    at = follow_link(ROUTING)
    assert "There is no type 'int4' to run models in; set" in texts(at).replace("\\", "")


@pytest.mark.parametrize("page", [ROUTING, ABLATION])
def test_pages_are_drawn_from_models_of_half_the_size(monkeypatch: pytest.MonkeyPatch, page: str):
    monkeypatch.setenv("EMO_VIZ_DTYPE", "bfloat16")
    at = follow_link(page)
    assert not at.exception and not at.error and at.get("bidi_component")
