"""Smaller checkpoints: what the cut model computes, what its folder holds, what is refused."""

import errno
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.files import weights_digest
from model.run.cut import check_made_for, cut_checkpoint
from model.run.inference import record
from model.run.loading import load_model
from model.run.subset import ExpertSubset, apply_subset, full_subset, random_subset
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


def test_a_model_whose_first_layer_is_dense_is_cut_and_recorded(tmp_path):
    uneven = {"num_experts_per_layer": [0, 16], "dense_intermediate_size": 24}
    tiny_model(**uneven).save_pretrained(tmp_path / "parent")
    whole = load_model(tmp_path / "parent")
    subset = random_subset(whole.config, 7, seed=1)
    assert [len(layer) for layer in subset.experts] == [0, 7]
    cut_checkpoint(tmp_path / "parent", subset, tmp_path / "cut")
    small = load_model(tmp_path / "cut")
    with apply_subset(whole, subset):
        assert torch.allclose(logits(small), logits(whole), atol=1e-5)
        found = record(whole, tiny_ids()[0].numpy())
    assert (found.expert_ids[0] == -1).all() and np.isnan(found.entropy[0]).all()
    assert set(found.expert_ids[1].ravel().tolist()) <= set(subset.experts[1])


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


def with_nan(name):
    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        weights[name][0] = torch.nan
        save_file(weights, folder / "model.safetensors")

    return damage


def with_fields(**fields):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return damage


def with_metadata(ids):
    def damage(folder):
        metadata = {"experts_kept_per_layer": ids}
        (folder / "pruning_metadata.json").write_text(json.dumps(metadata))

    return damage


def of_fused_experts(folder):
    save_file(tiny_model().state_dict(), folder / "model.safetensors")


def of_float8(folder):
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight.to(torch.float8_e4m3fn) for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors")


def with_small_link(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lacking_an_expert, "lacks weights .*layers.1.mlp.experts.3.up_proj"),
        (truncated, "cannot be read"),
        (of_another_type, "No layer with a router was found in a model of type 'llama'"),
        (without_index, "has no weights in model.safetensors"),
        (with_nan("model.layers.1.mlp.experts.3.down_proj.weight"), "experts.3.* holds NaN"),
        (with_nan("model.layers.0.mlp.gate.weight"), "layers.0.mlp.gate.weight holds NaN"),
        (with_nan("model.norm.weight"), "model.norm.weight holds NaN"),
        (with_fields(num_experts=8), "16 experts in layer 0 and its config.json asks for 8"),
        (with_fields(num_hidden_layers=1), "holds 2 layers and its config.json asks for 1"),
        (of_fused_experts, "under the released names"),
        (of_float8, "as F8_E4M3, quantised weights"),
        (with_small_link, "outside of itself"),
        (with_metadata([[0, 1], [2, 3]]), "does not list the experts of"),
        (with_metadata({"0": [1]}), "does not list the experts of"),
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
        (((0, 0, 0, 15),) * 2, "each once"),
        (((0, 1, 2, 2, 15),) * 2, "each once"),
        (((-1, 1, 2, 3, 15),) * 2, "ids must be 0..15"),
    ],
)
def test_a_subset_of_another_geometry_is_refused(parent, tmp_path, experts, message):
    with pytest.raises(ValueError, match=message):
        cut_checkpoint(parent, ExpertSubset(experts, "", (), 4), tmp_path / "cut")


KEEP_FOUR = ExpertSubset(((0, 1, 2, 15),) * 2, "", (), 4)


@pytest.mark.parametrize("place", [".", "below", "below/further"])
def test_nothing_is_written_in_the_parent(parent, place):
    before = sorted(path.name for path in parent.iterdir())
    with pytest.raises(ValueError, match="is there already|lies in"):
        cut_checkpoint(parent, KEEP_FOUR, parent / place)
    assert sorted(path.name for path in parent.iterdir()) == before


def test_the_folder_above_the_parent_is_left_alone(parent):
    with pytest.raises(ValueError, match="is there already"):
        cut_checkpoint(parent, KEEP_FOUR, parent.parent)


def test_what_stands_where_the_old_partial_folder_was_stays(parent, tmp_path):
    (tmp_path / "cut.partial").mkdir()
    (tmp_path / "cut.partial" / "thesis.txt").write_text("precious")
    cut_checkpoint(parent, KEEP_FOUR, tmp_path / "cut")
    assert (tmp_path / "cut.partial" / "thesis.txt").read_text() == "precious"


def test_a_link_is_never_written_through(parent, tmp_path):
    (tmp_path / "cut").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is there already"):
        cut_checkpoint(parent, KEEP_FOUR, tmp_path / "cut")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_appears_meanwhile_is_left_alone(parent, tmp_path):
    def appears(done, total):
        (tmp_path / "cut").mkdir()
        (tmp_path / "cut" / "theirs").touch()

    with pytest.raises(ValueError, match="is there already"):
        cut_checkpoint(parent, KEEP_FOUR, tmp_path / "cut", appears)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["theirs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "parent"]


def test_an_index_never_leads_to_another_checkpoint(sharded, tmp_path):
    tiny_model(seed=1).save_pretrained(tmp_path / "other")
    other = tmp_path / "other" / "model.safetensors"
    before = other.read_bytes()
    index = sharded / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map["model.norm.weight"] = "../other/model.safetensors"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="names a file outside of itself"):
        cut_checkpoint(sharded, KEEP_FOUR, tmp_path / "deep" / "cut")
    assert other.read_bytes() == before
    assert not (tmp_path / "deep" / "cut").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), SafetensorError("I/O error: full (os error 28)")]
)
def test_a_full_disk_leaves_nothing(sharded, tmp_path, monkeypatch, error):
    def full(weights, path, metadata):
        save_file(weights, path)
        if "00003" in path.name:
            raise error

    monkeypatch.setattr("model.run.cut.save_file", full)
    with pytest.raises(ValueError, match="cut cannot be written .*make room"):
        cut_checkpoint(sharded, KEEP_FOUR, tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["sharded"]


def test_shards_in_folders_are_numbered_anew(sharded, tmp_path):
    index = sharded / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    for number, name in enumerate(sorted(set(weight_map.values()))):
        (sharded / str(number)).mkdir()
        (sharded / name).rename(sharded / str(number) / "model.safetensors")
    numbers = {name: number for number, name in enumerate(sorted(set(weight_map.values())))}
    moved = {tensor: f"{numbers[name]}/model.safetensors" for tensor, name in weight_map.items()}
    index.write_text(json.dumps({"metadata": {}, "weight_map": moved}))
    cut_checkpoint(sharded, KEEP_FOUR, tmp_path / "cut")
    whole = load_model(sharded)
    with apply_subset(whole, KEEP_FOUR):
        assert torch.allclose(logits(load_model(tmp_path / "cut")), logits(whole), atol=1e-5)


def test_tied_embeddings_stay_tied(tmp_path):
    tiny_model(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    cut_checkpoint(tmp_path / "tied", KEEP_FOUR, tmp_path / "cut")
    whole, small = load_model(tmp_path / "tied"), load_model(tmp_path / "cut")
    with apply_subset(whole, KEEP_FOUR):
        assert torch.allclose(logits(small), logits(whole), atol=1e-5)
    assert small.lm_head.weight is small.model.embed_tokens.weight


def test_a_layer_with_fewer_experts_than_a_token_uses_can_be_cut(tmp_path):
    """Layer 0 has three experts, and a token uses four of layer 1."""
    tiny_model(num_experts_per_layer=[3, 16]).save_pretrained(tmp_path / "parent")
    whole = load_model(tmp_path / "parent")
    subset = random_subset(whole.config, 5, seed=0)
    assert [len(layer) for layer in subset.experts] == [3, 5]
    cut_checkpoint(tmp_path / "parent", subset, tmp_path / "cut")
    with apply_subset(whole, subset):
        assert torch.allclose(logits(load_model(tmp_path / "cut")), logits(whole), atol=1e-5)


def test_a_cut_of_a_cut_lists_the_ids_of_the_first_model_and_of_its_parent(parent, tmp_path):
    half, quarter = tmp_path / "half", tmp_path / "quarter"
    cut_checkpoint(parent, ExpertSubset(((1, 3, 5, 7, 15), (0, 2, 4, 6, 15)), "", (), 5), half)
    cut_checkpoint(half, ExpertSubset(((0, 1, 3, 4),) * 2, "", (), 4), quarter)
    metadata = json.loads((quarter / "pruning_metadata.json").read_text())
    assert (metadata["original"], metadata["parent"]) == ("parent", "half")
    assert metadata["experts_kept_per_layer"] == [[1, 3, 7, 15], [0, 2, 6, 15]]
    assert metadata["experts_kept_of_parent"] == [[0, 1, 3, 4]] * 2


def test_a_subset_says_whose_experts_it_lists(parent, tmp_path):
    check_made_for(replace(KEEP_FOUR, weights_sha256=weights_digest(parent)), parent)
    with pytest.raises(ValueError, match="does not say whose experts"):
        check_made_for(KEEP_FOUR, parent)
    with pytest.raises(ValueError, match="lists experts of theirs, and .*other weights"):
        check_made_for(replace(KEEP_FOUR, model="theirs", weights_sha256="12ab"), parent)


def test_a_folder_that_exists_is_left_alone(parent):
    before = sorted(path.name for path in parent.iterdir())
    with pytest.raises(ValueError, match="is there already"):
        cut_checkpoint(parent, ExpertSubset(((0, 1, 2, 15),) * 2, "", (), 4), parent)
    assert sorted(path.name for path in parent.iterdir()) == before


def test_whoever_can_read_the_folder_can_read_the_weights(parent, tmp_path):
    cut_checkpoint(parent, KEEP_FOUR, tmp_path / "cut")
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "cut").iterdir()}
    assert len(modes) == 1
