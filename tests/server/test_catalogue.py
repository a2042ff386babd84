"""What is known of a run without loading it: from config.json, headers and manifests."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny import CAUSAL, EXPERTS, SEQ2SEQ, UNKNOWN, save_tiny
from torch import nn

from emo_viz.server import assets, catalogue, home
from model.families import routed

FAMILIES = (*CAUSAL, *SEQ2SEQ, *UNKNOWN)


def numbers(made: nn.Module) -> int:
    """In the checkpoint of a model: biases that are learned beside training are buffers."""
    buffers = [each for name, each in made.named_buffers() if "bias" in name]
    return made.num_parameters() + sum(each.numel() for each in buffers)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_says_what_it_is(family: str, tmp_path: Path):
    made = save_tiny(family, tmp_path)
    found = catalogue.read_model(tmp_path)
    layers = routed(made).layers
    assert found.family == family
    assert found.layers == (4 if family in SEQ2SEQ else 3)
    assert found.experts == str(EXPERTS)
    assert found.top_k == layers[0].top_k
    assert found.parameters == numbers(made)
    assert found.bytes == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "jetmoe"])
def test_the_parameters_of_one_token_leave_out_the_experts_it_does_not_use(
    family: str, tmp_path: Path
):
    made = save_tiny(family, tmp_path)
    unused = 0.0
    for layer in routed(made).layers:
        own = sum(each.numel() for each in layer.block.experts.parameters())
        unused += own * (1 - layer.top_k / layer.num_experts)
    active = catalogue.read_model(tmp_path).active
    assert active == pytest.approx(numbers(made) - unused, abs=1)


def test_layers_of_different_sizes_are_counted_each(tmp_path: Path):
    save_tiny("olmoe", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_experts_per_layer": [2, 8, 4]}))
    found, plain = catalogue.read_model(tmp_path), save_tiny("olmoe", tmp_path / "plain")
    experts = sum(
        p.numel() for layer in routed(plain).layers for p in layer.block.experts.parameters()
    )
    assert found.experts == "2 to 8"
    assert found.active == pytest.approx(found.parameters - experts * (1 - (2 + 3 + 3) / 14), abs=1)


def test_experts_a_token_of_a_gemma_4_are_found(tmp_path: Path):
    """By the name top_k_experts, in the config of its text."""
    save_tiny("olmoe", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["num_experts_per_tok"]
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"text_config": {"top_k_experts": 2}})
    )
    assert catalogue.read_model(tmp_path).top_k == 2


def test_a_file_that_is_replaced_is_read_again(tmp_path: Path):
    save_tiny("olmoe", tmp_path)
    before = catalogue.read_model(tmp_path)
    save_tiny("olmoe", tmp_path, num_hidden_layers=1)
    after = catalogue.read_model(tmp_path)
    assert (before.layers, after.layers) == (3, 1)
    assert after.parameters < before.parameters


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "assets"))
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    return tmp_path


def test_a_hub_name_is_looked_up_in_the_cache_and_never_fetched(
    own: Path, monkeypatch: pytest.MonkeyPatch
):
    save_tiny("mixtral", own / "snapshot")
    cached = {"owner/model": str(own / "snapshot" / "config.json")}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file: cached.get(name)
    )
    home.add("owner/model", "owner/model", [])
    (entry,) = catalogue.entries()
    assert (entry.id, entry.kind, entry.family, entry.faults) == ("model", "yours", "mixtral", ())
    assert assets.checkpoint_path("model") == own / "snapshot"
    cached.clear()
    (entry,) = catalogue.entries()
    assert entry.faults == (
        "owner/model is no longer in the Hugging Face cache; add it again to fetch it.",
    )


def test_a_bundled_run_goes_before_an_added_one_of_its_name(own: Path):
    """Whoever names another assets folder may meet an id that was added before."""
    save_tiny("olmoe", own / "mine")
    home.add("mine", os.fspath(own / "mine"), [])
    shutil.copytree(own / "mine", own / "assets" / "checkpoints" / "mine")
    (entry,) = catalogue.entries()
    assert entry.source == os.fspath(own / "assets" / "checkpoints" / "mine")
    assert assets.checkpoint_path("mine") == own / "assets" / "checkpoints" / "mine"


@pytest.mark.parametrize("name", ["a/b", "allenai/OLMoE-1B-7B-0924"])
def test_names_of_the_hub(name: str):
    assert assets.is_hub_name(name)


@pytest.mark.parametrize(
    "name", ["a", "/a/b", "./a/b", "~/a", "a/b/c", "../x", "a b/c", "a/b\n", ""]
)
def test_no_names_of_the_hub(name: str):
    assert not assets.is_hub_name(name)


@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_a_recording_whose_file_is_cut_short_or_gone_is_not_said_to_be_there(
    own: Path, tiny_assets: Path, damage: str
):
    shutil.copytree(tiny_assets / "traces", own / "assets" / "traces")
    whole, other = catalogue.entries()
    assert whole.recording and other.recording and not whole.faults
    file = own / "assets" / "traces" / whole.id / "documents-00000.parquet"
    size = file.stat().st_size
    os.truncate(file, size - 7) if damage == "cut short" else file.unlink()
    damaged, other = catalogue.entries()
    assert damaged.recording is None and other.recording
    what = f"has {size - 7} bytes instead of {size}" if damage == "cut short" else "is missing"
    assert damaged.faults == (
        f"The trace of {whole.id} is damaged: documents-00000.parquet {what}; record it again.",
    )
