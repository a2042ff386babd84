"""A smaller checkpoint of every family is the model that its parent is under the subset."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CAUSAL, EXPERTS, SEQ2SEQ, UNKNOWN, run, save_tiny, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from model.families import routed
from model.families.groups import Groups
from model.families.layout import per_token
from model.families.opening import config_of
from model.run.cut import cut_checkpoint, plan_cut
from model.run.cut_family import fill
from model.run.live import open_live
from model.run.subset import ExpertSubset, subset_from_scores

CUT = [each for each in [*CAUSAL, *SEQ2SEQ, *UNKNOWN] if each not in ("emo", "jetmoe", "nllb-moe")]
GROUPED = ("deepseek_v3", "dots1")  # four groups of two experts, of which two are used


def drawn(family: str, layers: int, keep: int) -> list[list[int]]:
    """Other experts in every layer; of models with groups two whole groups."""
    rng = random.Random(family)
    if family in GROUPED:
        groups = [sorted(rng.sample(range(4), keep // 2)) for _ in range(layers)]
        return [[2 * group + n for group in own for n in (0, 1)] for own in groups]
    return [sorted(rng.sample(range(EXPERTS), keep)) for _ in range(layers)]


def subset_of(kept: list[list[int]]) -> ExpertSubset:
    return ExpertSubset(tuple(map(tuple, kept)), "by hand", (), max(map(len, kept)))


def opened(folder: Path) -> torch.nn.Module:
    """By transformers alone."""
    seq2seq = json.loads((folder / "config.json").read_text()).get("is_encoder_decoder")
    loader = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    small, report = loader.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return small.eval()


def same_as_restricted(made: torch.nn.Module, kept: list[list[int]], small: torch.nn.Module):
    with routed(made).restricted(kept):
        torch.testing.assert_close(run(small), run(made), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", CUT)
def test_the_cut_checkpoint_chooses_what_the_restricted_parent_does(
    family: str, tmp_path: Path
) -> None:
    """Also with fewer experts than a token used, in every second family."""
    keep = 4 if CUT.index(family) % 2 or family in GROUPED else 2
    made = tiny_model(family)
    made.save_pretrained(tmp_path / "parent", max_shard_size="60KB")
    (tmp_path / "parent" / "tokenizer.json").write_text("{}")
    kept = drawn(family, len(routed(made).layers), keep)
    cut_checkpoint(tmp_path / "parent", subset_of(kept), tmp_path / "cut")
    same_as_restricted(made, kept, opened(tmp_path / "cut"))
    assert (tmp_path / "cut" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "cut" / "generation_config.json").exists()
    config = config_of(tmp_path / "cut")
    assert (per_token(config) or 1) <= keep


def save(family: str, folder: Path, **changes: object) -> torch.nn.Module:
    made = tiny_model(family, **changes)
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize(
    ("kept", "groups", "per_token"),
    [
        ([[0, 1, 2], [5, 6, 7]], (1, 1), 3),  # of two groups at most: all of them are open
        ([[0, 1, 2, 3, 6, 7], [2, 3, 4, 5, 6, 7]], (3, 2), 3),  # a whole group less in each layer
        ([[0, 1], [6, 7]], (1, 1), 2),
    ],
)
def test_groups_of_experts_fit_what_is_left(
    kept: list[list[int]], groups: tuple[int, int], per_token: int, tmp_path: Path
) -> None:
    made = save("deepseek_v3", tmp_path / "parent")
    cut_checkpoint(tmp_path / "parent", subset_of(kept), tmp_path / "cut")
    same_as_restricted(made, kept, opened(tmp_path / "cut"))
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert (config["n_group"], config["topk_group"]) == groups
    assert config["num_experts_per_tok"] == per_token


def test_what_is_chosen_per_group_is_what_a_cut_asks_for(tmp_path: Path) -> None:
    """Also of a router that does not look at the groups that its config names."""
    changes = {"n_group": 2, "topk_group": 1, "num_hidden_layers": 1}
    save_tiny("olmoe", tmp_path, **changes)
    live, scores = open_live(tmp_path), np.array([[9, 8, 7, 0, 6, 0, 0, 0]])
    best, even = (
        subset_from_scores(scores, 4, live.geometry, "", (), groups) for groups in (1, live.groups)
    )
    with pytest.raises(ValueError, match="subset --per-group"):
        plan_cut(tmp_path, best)
    assert even.experts == ((0, 1, 4, 5),) and plan_cut(tmp_path, even).config["n_group"] == 2


def test_a_group_that_is_left_uneven_is_refused_with_what_would_fit() -> None:
    groups = Groups(4, 2)
    assert groups.cut([[0, 1, 2, 4, 8]] * 2, 16) is None
    assert groups.cut([[0, 1, 4, 5], [0, 1, 4, 5]], 16) == Groups(1, 1)
    assert groups.cut([[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 12, 13]], 16) == Groups(3, 2)
    assert fill([0, 1, 2, 4], 12, 16, groups) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]
    with pytest.raises(ValueError, match="keeps 3 experts of a group.* asks for 12"):
        fill([0, 1, 2, 4], 8, 16, groups)


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With tied embeddings: transformers stores them once."""
    folder = tmp_path_factory.mktemp("olmoe")
    save("olmoe", folder, tie_word_embeddings=True, num_hidden_layers=2)
    return folder


def copied(parent: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_layers_of_another_size_are_filled_up_where_one_number_must_do(
    olmoe: Path, tmp_path: Path
) -> None:
    uneven = subset_of([[1, 6], [0, 3, 5, 7]])
    with pytest.raises(ValueError, match="keeps 2 to 4 experts a layer.*--same-size 4"):
        plan_cut(olmoe, uneven)
    with pytest.raises(ValueError, match="--same-size 3 is too few"):
        plan_cut(olmoe, uneven, 3)
    plan = plan_cut(olmoe, uneven, 4)
    assert plan.metadata["experts_kept_per_layer"] == [[0, 1, 2, 6], [0, 3, 5, 7]]


def test_a_cut_is_cut_again_and_knows_the_first_ids(olmoe: Path, tmp_path: Path) -> None:
    half, quarter = tmp_path / "half", tmp_path / "quarter"
    cut_checkpoint(olmoe, subset_of([[1, 3, 5, 7], [0, 2, 4, 6]]), half)
    cut_checkpoint(half, subset_of([[1, 2], [0, 3]]), quarter)
    made = opened(olmoe)
    same_as_restricted(made, [[3, 5], [0, 6]], opened(quarter))
    told = json.loads((quarter / "pruning_metadata.json").read_text())
    assert told["experts_kept_per_layer"] == [[3, 5], [0, 6]] and told["parent"] == "half"


def quantised(parent: Path, folder: Path, **method: object) -> dict[str, torch.Tensor]:
    """Experts in float8 with scales, as fine-grained FP8 stores them; returns the tensors."""
    copied(parent, folder)
    weights = {}
    for name, weight in load_file(parent / "model.safetensors").items():
        if ".experts." in name:
            scale = weight.abs().amax(1, keepdim=True)
            weights[f"{name}_scale_inv"] = scale
            weight = (weight / scale).to(torch.float8_e4m3fn)
        weights[name] = weight
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", **method}
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_quantised_experts_move_whole_with_their_scales(olmoe: Path, tmp_path: Path) -> None:
    before = quantised(olmoe, tmp_path / "parent")
    cut_checkpoint(tmp_path / "parent", subset_of([[2, 7], [0, 5]]), tmp_path / "cut")
    after = load_file(tmp_path / "cut" / "model.safetensors")
    of = "model.layers.0.mlp.experts.{}.up_proj.weight{}"
    for part in ("", "_scale_inv"):
        for new, old in enumerate((2, 7)):
            assert same_bytes(after[of.format(new, part)], before[of.format(old, part)])
    assert len(after) < len(before)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "fp8"}


def test_stacked_blocks_and_scales_are_sliced_bit_by_bit(tmp_path: Path) -> None:
    """gpt-oss as it is released: the weights of all experts as 4-bit blocks and their scales."""
    save("gpt_oss", tmp_path / "parent", num_hidden_layers=2, layer_types=["full_attention"] * 2)
    file, config = (tmp_path / "parent" / n for n in ("model.safetensors", "config.json"))
    weights = load_file(file)
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        rows = weights.pop(name).shape[2]
        for part, shape in (("blocks", (EXPERTS, rows, 1, 16)), ("scales", (EXPERTS, rows, 1))):
            drawn = torch.randint(256, shape, generator=generator)
            weights[f"{name}_{part}"] = drawn.to(torch.uint8)
    save_file(weights, file)
    told = json.loads(config.read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    config.write_text(json.dumps(told))
    cut_checkpoint(tmp_path / "parent", subset_of([[1, 4], [3, 6]]), tmp_path / "cut")
    after = load_file(tmp_path / "cut" / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj_blocks"
    assert same_bytes(after[name], weights[name][[3, 6]])
    bias = "model.layers.0.mlp.router.bias"
    assert same_bytes(after[bias], weights[bias][[1, 4]])


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.experts.3.up_proj", r"re:.*\.experts\.3\.up_proj"]
)
def test_what_is_quantised_expert_by_expert_is_refused(
    name: str, olmoe: Path, tmp_path: Path
) -> None:
    names = [name]
    quantised(olmoe, tmp_path / "parent", modules_to_not_convert=names)
    with pytest.raises(ValueError, match=r"expert by expert \(experts\\*\.3"):
        plan_cut(tmp_path / "parent", subset_of([[0, 1]] * 2))


def lacking(weights: dict, fields: dict) -> None:
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"]


def one_too_many(weights: dict, fields: dict) -> None:
    weights["model.layers.1.mlp.experts.8.up_proj.weight"] = torch.zeros(24, 32)


def another_shape(weights: dict, fields: dict) -> None:
    weights["model.layers.1.mlp.gate.weight"] = torch.zeros(6, 32)


def not_a_number(weights: dict, fields: dict) -> None:
    weights["model.layers.0.mlp.gate.weight"][0, 0] = torch.nan


def quantised_router(weights: dict, fields: dict) -> None:
    weights["model.layers.0.mlp.gate.qweight"] = weights.pop("model.layers.0.mlp.gate.weight")
    fields["quantization_config"] = {"quant_method": "gptq"}


def absurd(weights: dict, fields: dict) -> None:
    fields["num_hidden_layers"] = 10**9


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lacking, r"does not hold model\.layers\.1\.mlp\.experts\.3\.up_proj\.weight"),
        (one_too_many, r"holds model\.layers\.1\.mlp\.experts\.8 and its config.json asks for 8"),
        (another_shape, r"gate\.weight of shape \[6, 32\], not \[8, 32\]"),
        (not_a_number, r"layers\.0\.mlp\.gate\.weight holds NaN"),
        (quantised_router, r"does not hold model\.layers\.0\.mlp\.gate\.weight as plain numbers"),
        (absurd, "describes no model"),
    ],
)
def test_a_damaged_parent_is_refused_and_leaves_nothing(
    damage, sentence: str, olmoe: Path, tmp_path: Path
) -> None:
    parent = copied(olmoe, tmp_path / "parent")
    weights, config = load_file(parent / "model.safetensors"), parent / "config.json"
    fields = json.loads(config.read_text())
    damage(weights, fields)
    save_file(weights, parent / "model.safetensors")
    config.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=sentence):
        cut_checkpoint(parent, subset_of([[0, 1]] * 2), tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ([[0, 1]], "1 layers, the model 2 with routers"),
        ([[0, 8]] * 2, "ids are 0 to 7"),
        ([[]] * 2, "at least one id"),
    ],
)
def test_a_subset_of_another_geometry_is_refused(kept: list, sentence: str, olmoe: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        plan_cut(olmoe, subset_of(kept) if kept[0] else ExpertSubset(((), ()), "", (), 1))


def test_layers_that_the_model_has_no_place_for_stay_behind(tmp_path: Path) -> None:
    """As the layer that predicts a further token, which transformers never loads."""
    save("glm4_moe", tmp_path / "parent", num_hidden_layers=2)
    weights = load_file(tmp_path / "parent" / "model.safetensors")
    weights["model.layers.2.mlp.experts.5.up_proj.weight"] = torch.zeros(16, 32)
    save_file(weights, tmp_path / "parent" / "model.safetensors")
    config = tmp_path / "parent" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_nextn_predict_layers": 1}))
    plan = plan_cut(tmp_path / "parent", subset_of([[0, 1, 4]]))
    assert plan.left_out == ["model.layers.2.mlp.experts.5.up_proj.weight"]
    assert plan.config["num_nextn_predict_layers"] == 0


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("jetmoe", "one number for these experts and for others"),
        ("nllb-moe", "NLLB-MoE cannot be cut"),
    ],
)
def test_a_family_that_cannot_be_cut_is_one_sentence(
    family: str, sentence: str, tmp_path: Path
) -> None:
    save(family, tmp_path / "parent")
    with pytest.raises(ValueError, match=sentence):
        plan_cut(tmp_path / "parent", subset_of([[0, 1]] * 3))


def test_phimoe_needs_as_many_experts_as_a_token_uses(tmp_path: Path) -> None:
    save("phimoe", tmp_path / "parent", num_hidden_layers=1)
    with pytest.raises(ValueError, match="uses 2 experts a token"):
        plan_cut(tmp_path / "parent", subset_of([[3]]))
