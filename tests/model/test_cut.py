"""Smaller checkpoints: what the cut model computes, what its folder holds, what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.cut import cut_checkpoint
from model.loading import load_model
from model.subset import ExpertSubset, apply_subset, full_subset, random_subset
from tests.model.helpers import tiny_ids, tiny_model


@pytest.fixture
def parent(tmp_path):
    """A checkpoint in one file, with a tokenizer file and what was written about its training."""
    folder = tmp_path / "parent"
    tiny_model().save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "training.json").write_text("{}")
    return folder


@pytest.fixture
def sharded(tmp_path):
    """The same checkpoint in many files and an index."""
    folder = tmp_path / "sharded"
    tiny_model().save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


def logits(model):
    with torch.no_grad():
        return model(tiny_ids()).logits


@pytest.mark.parametrize("kind", ["parent", "sharded"])
@pytest.mark.parametrize("keep_k", [4, 7, 16])
def test_a_cut_checkpoint_computes_what_the_parent_does_under_the_subset(
    request, tmp_path, kind, keep_k
):
    folder, out = request.getfixturevalue(kind), tmp_path / "cut"
    whole = load_model(folder)
    subset = random_subset(whole.config, keep_k, seed=keep_k)
    cut_checkpoint(folder, subset, out)
    small = load_model(out)
    with apply_subset(whole, subset):
        assert torch.allclose(logits(small), logits(whole), atol=1e-5)
    assert small.config.num_experts == keep_k
    assert small.model.layers[0].mlp.experts.gate_up_proj.shape[0] == keep_k


def test_layers_may_keep_different_numbers_of_experts(parent, tmp_path):
    whole = load_model(parent)
    subset = ExpertSubset(((0, 3, 5, 9, 15), (1, 2, 6, 8, 11, 13, 15)), "by hand", (), 7)
    cut_checkpoint(parent, subset, tmp_path / "cut")
    small = load_model(tmp_path / "cut")
    assert [small.config.experts_in_layer(layer) for layer in (0, 1)] == [5, 7]
    assert small.config.num_experts == 7
    with apply_subset(whole, subset):
        assert torch.allclose(logits(small), logits(whole), atol=1e-5)


def test_shared_experts_stay_when_a_subset_does_not_name_them(parent, tmp_path):
    subset = ExpertSubset(((0, 1, 2, 3),) * 2, "by hand", (), 5)
    cut_checkpoint(parent, subset, tmp_path / "cut")
    kept = json.loads((tmp_path / "cut" / "pruning_metadata.json").read_text())
    assert kept["experts_kept_per_layer"] == [[0, 1, 2, 3, 15]] * 2


def test_a_cut_of_all_experts_is_the_parent_bit_for_bit(parent, tmp_path):
    cut_checkpoint(parent, full_subset(load_model(parent).config), tmp_path / "cut")
    before, after = (load_file(f / "model.safetensors") for f in (parent, tmp_path / "cut"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_folder_holds_the_tokenizer_and_where_the_experts_came_from(parent, tmp_path):
    subset = random_subset(load_model(parent).config, 6, seed=0)
    cut_checkpoint(parent, subset, tmp_path / "cut")
    names = {path.name for path in (tmp_path / "cut").iterdir()}
    assert {"tokenizer.json", "generation_config.json", "pruning_metadata.json"} < names
    assert "training.json" not in names, "it speaks of the parent"
    metadata = json.loads((tmp_path / "cut" / "pruning_metadata.json").read_text())
    assert metadata["parent"] == "parent" and metadata["method"] == "random seed 0"
    assert metadata["experts_kept_per_layer"] == [list(layer) for layer in subset.experts]


def test_experts_that_go_are_not_read_and_the_rest_of_the_config_stays(parent, tmp_path):
    weights = load_file(parent / "model.safetensors")
    weights["model.layers.1.mlp.experts.4.down_proj.weight"][:] = torch.nan
    save_file(weights, parent / "model.safetensors", metadata={"format": "pt"})
    cut_checkpoint(parent, ExpertSubset(((0, 1, 2, 15),) * 2, "", (), 4), tmp_path / "cut")
    load_model(tmp_path / "cut")
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (parent, tmp_path / "cut")
    )
    assert before | {"num_experts": 4} == after


def test_kept_experts_are_numbered_anew_in_their_old_order(parent, tmp_path):
    cut_checkpoint(parent, ExpertSubset(((2, 5, 7, 15),) * 2, "", (), 4), tmp_path / "cut")
    before, after = (load_file(f / "model.safetensors") for f in (parent, tmp_path / "cut"))
    for new, old in enumerate((2, 5, 7, 15)):
        name = "model.layers.1.mlp.experts.{}.up_proj.weight"
        assert torch.equal(after[name.format(new)], before[name.format(old)])
    assert not any(".experts.4." in name for name in after)


def test_the_index_lists_what_the_files_hold(sharded, tmp_path):
    out = tmp_path / "cut"
    cut_checkpoint(sharded, ExpertSubset(((0, 1, 2, 15),) * 2, "", (), 4), out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = {file.name: load_file(file) for file in out.glob("*.safetensors")}
    held = {name: file for file, weights in files.items() for name in weights}
    assert index["weight_map"] == held
    size = sum(weight.nbytes for weights in files.values() for weight in weights.values())
    assert index["metadata"]["total_size"] == size


def test_a_cut_checkpoint_can_be_cut_again(parent, tmp_path):
    half, quarter = tmp_path / "half", tmp_path / "quarter"
    cut_checkpoint(parent, ExpertSubset(((1, 3, 5, 7, 15),) * 2, "first", (), 5), half)
    cut_checkpoint(half, ExpertSubset(((0, 1, 3, 4),) * 2, "second", (), 4), quarter)
    metadata = json.loads((quarter / "pruning_metadata.json").read_text())
    assert (metadata["parent"], metadata["method"]) == ("half", "second")
    whole, subset = load_model(parent), ExpertSubset(((1, 3, 7, 15),) * 2, "", (), 4)
    with apply_subset(whole, subset):
        assert torch.allclose(logits(load_model(quarter)), logits(whole), atol=1e-5)


def test_progress_is_told_shard_by_shard(sharded, tmp_path):
    told = []
    subset = random_subset(load_model(sharded).config, 5, seed=0)
    cut_checkpoint(sharded, subset, tmp_path / "cut", lambda *step: told.append(step))
    shards = len(list(sharded.glob("*.safetensors")))
    assert told == [(done, shards) for done in range(1, shards + 1)]


def lacking_an_expert(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def without_index(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def of_another_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lacking_an_expert, "three matrices for each kept expert of layer 1"),
        (truncated, "cannot be read"),
        (of_another_type, "this loader reads type 'emo'"),
        (without_index, "neither model.safetensors nor"),
    ],
)
def test_a_damaged_parent_is_refused_and_leaves_nothing(parent, tmp_path, damage, message):
    damage(parent)
    with pytest.raises(ValueError, match=message):
        cut_checkpoint(parent, ExpertSubset(((0, 1, 3, 15),) * 2, "", (), 4), tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        (((0, 1, 2, 15),), "The subset has 1 layers, the model 2"),
        (((0, 1, 2, 16),) * 2, "ids must be 0..15"),
        (((0, 1, 15),) * 2, "at least 3 of them routed"),
        (((0, 0, 0, 15),) * 2, "at least 3 of them routed"),
    ],
)
def test_a_subset_of_another_geometry_is_refused(parent, tmp_path, experts, message):
    with pytest.raises(ValueError, match=message):
        cut_checkpoint(parent, ExpertSubset(experts, "", (), 4), tmp_path / "cut")


def test_a_folder_that_exists_is_left_alone(parent):
    before = sorted(path.name for path in parent.iterdir())
    with pytest.raises(ValueError, match="is there already"):
        cut_checkpoint(parent, ExpertSubset(((0, 1, 2, 15),) * 2, "", (), 4), parent)
    assert sorted(path.name for path in parent.iterdir()) == before
