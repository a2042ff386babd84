"""Subsets: the same as deleting experts, gone after the block, and private to a thread."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.emo.modeling import EmoForCausalLM
from model.run.inference import record
from model.run.selection import expert_scores, select_experts
from model.run.subset import (
    ExpertSubset,
    apply_subset,
    full_subset,
    random_subset,
    subset_from_scores,
)
from tests.model.helpers import tiny_ids, tiny_model


def documents(count=5, seed=0):
    return [tiny_ids(1, 20, seed=seed + i)[0].numpy() for i in range(count)]


def cut_model(model, subset):
    """A smaller model that holds the subset's experts alone."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.num_experts = subset.keep_k
    config.pool_size_max = subset.keep_k
    small = EmoForCausalLM(config).eval()
    weights = model.state_dict()
    for layer, kept in enumerate(subset.experts):
        for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
            key = f"model.layers.{layer}.mlp.{name}"
            weights[key] = weights[key][list(kept)]
    small.load_state_dict(weights)
    return small


def test_a_subset_equals_a_model_without_the_other_experts():
    model, ids = tiny_model(), tiny_ids()
    subset = random_subset(model.config, 7, seed=3)
    with apply_subset(model, subset):
        masked = model(ids).logits
    assert torch.allclose(masked, cut_model(model, subset)(ids).logits, atol=1e-5)
    assert not torch.allclose(masked, model(ids).logits, atol=1e-2)


def test_only_kept_experts_are_used():
    model = tiny_model()
    subset = random_subset(model.config, 6, seed=1)
    with apply_subset(model, subset):
        seen = record(model, documents(1)[0])
    for layer, kept in enumerate(subset.experts):
        assert set(seen.expert_ids[layer].ravel()) <= set(kept)
        assert seen.router_probs[layer].sum(1) == pytest.approx(np.ones(20), abs=1e-5)


def test_the_full_subset_changes_nothing_and_the_block_ends_even_by_an_error():
    model, ids = tiny_model(), tiny_ids()
    before = model(ids).logits
    with apply_subset(model, full_subset(model.config)):
        assert torch.equal(model(ids).logits, before)
    with (
        pytest.raises(RuntimeError, match="stop"),
        apply_subset(model, random_subset(model.config, 4, 0)),
    ):
        raise RuntimeError("stop")
    assert torch.equal(model(ids).logits, before)


def test_two_threads_never_see_each_others_subset():
    model, ids = tiny_model(), tiny_ids()
    subsets = [random_subset(model.config, 5, seed) for seed in (1, 2)]
    expected = []
    for subset in subsets:
        with apply_subset(model, subset):
            expected.append(model(ids).logits)
    meet, results = threading.Barrier(2, timeout=30), [None, None]

    def work(i):
        with apply_subset(model, subsets[i]):
            meet.wait()
            results[i] = model(ids).logits
            meet.wait()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    assert not torch.equal(*expected)


def test_selection_keeps_the_likeliest_routed_experts_and_the_shared_one():
    model = tiny_model()
    scores = expert_scores(model, documents())
    subset = select_experts(model, documents(), 6)
    for layer, kept in enumerate(subset.experts):
        assert kept[-1] == 15 and len(kept) == 6
        assert set(kept[:-1]) == set(np.argsort(-scores[layer])[:5])


def test_scores_average_over_tokens_not_documents():
    model = tiny_model()
    docs = [documents(1)[0][:5], documents(1, seed=9)[0]]
    parts = [record(model, d).router_probs.sum(1) for d in docs]
    assert np.allclose(expert_scores(model, docs), sum(parts) / 25, atol=1e-6)


def test_greedy_agrees_with_one_pass_on_the_first_layer_and_conditions_on_it_after():
    model = tiny_model()
    one_pass, greedy = (
        select_experts(model, documents(), 5, method) for method in ("router_probability", "greedy")
    )
    assert greedy.experts[0] == one_pass.experts[0]
    first_cut = ExpertSubset((greedy.experts[0], tuple(range(16))), "", (), 5)
    with apply_subset(model, first_cut):
        scores = expert_scores(model, documents())
    assert greedy.experts[1] == subset_from_scores(scores, 5, model.config, "", ()).experts[1]


def test_keeping_everything_keeps_all_and_random_is_seeded():
    config = tiny_model().config
    assert random_subset(config, 16, 0).experts == full_subset(config).experts
    assert random_subset(config, 6, 4) == random_subset(config, 6, 4)
    assert random_subset(config, 6, 4) != random_subset(config, 6, 5)


@pytest.mark.parametrize("keep_k", [3, 0, 17])
def test_a_budget_below_top_k_or_above_all_is_refused(keep_k):
    with pytest.raises(ValueError, match=f"keep-k must be 4 .* to 16, not {keep_k}"):
        random_subset(tiny_model().config, keep_k, 0)


def test_json_round_trip():
    chosen = random_subset(tiny_model().config, 6, 4)
    origin = {"model": "tiny", "weights_sha256": "12ab", "domain": "tea", "documents_sha256": "34"}
    for subset in (chosen, replace(chosen, calibration=("a", "b"), **origin)):
        assert ExpertSubset.from_json(subset.to_json()) == subset
        assert ExpertSubset.from_json("\ufeff" + subset.to_json()) == subset
    assert json.loads(chosen.to_json())["format_version"] == 1


def test_a_file_of_an_older_program_is_read_and_names_no_model():
    old = {"experts": [[0, 1, 15]], "method": "greedy", "calibration": ["a"], "budget": 3}
    subset = ExpertSubset.from_json(json.dumps(old))
    assert subset == ExpertSubset(((0, 1, 15),), "greedy", ("a",), 3)
    assert subset.weights_sha256 == ""


GOOD = {"experts": [[0, 1, 15]], "method": "greedy", "calibration": ["a"], "budget": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": None}, "not an expert subset: JSON with experts"),
        ({"experts": [3]}, "layer 0 .* not a list of whole numbers from 0"),
        ({"experts": [[0, 1], [0.7, 1]]}, "layer 1 .* not a list of whole numbers from 0"),
        ({"experts": [[0, 1.0]]}, "not a list of whole numbers"),
        ({"experts": [[0, "1"]]}, "not a list of whole numbers"),
        ({"experts": [[False, True]]}, "not a list of whole numbers"),
        ({"experts": [[-1, 1]]}, "not a list of whole numbers from 0"),
        ({"experts": [[0, 1, 1]]}, "not in ascending order, each once"),
        ({"experts": [[1, 0]]}, "not in ascending order"),
        ({"experts": ["01"]}, "not a list of whole numbers"),
        ({"method": None}, "no proper method"),
        ({"calibration": "abc"}, "no proper calibration"),
        ({"calibration": [1]}, "no proper calibration"),
        ({"budget": 3.5}, "no proper budget"),
        ({"budget": True}, "no proper budget"),
        ({"weights_sha256": 3}, "no proper weights_sha256"),
        ({"domain": 3}, "no proper domain"),
        ({"format": "emo-viz-trace"}, "format 'emo-viz-trace'"),
        ({"format_version": 2}, "version 2, and this program reads version 1"),
    ],
)
def test_a_file_with_a_wrong_field_is_one_sentence(changes, message):
    assert ExpertSubset.from_json(json.dumps(GOOD)).budget == 3
    with pytest.raises(ValueError, match=message) as error:
        ExpertSubset.from_json(json.dumps(GOOD | changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"a": 1}'])
def test_a_foreign_file_is_one_sentence(text):
    with pytest.raises(ValueError, match="not an expert subset"):
        ExpertSubset.from_json(text)


def uneven_model():
    """Top-4 of 3, 9 and 16 experts: layer 0 has fewer than a token would use."""
    return tiny_model(num_hidden_layers=3, num_experts_per_layer=[3, 9, 16])


@pytest.mark.parametrize("method", ["router_probability", "greedy"])
def test_layers_with_different_numbers_of_experts_are_chosen_from(method):
    model = uneven_model()
    subset = select_experts(model, documents(), 10, method)
    assert [len(kept) for kept in subset.experts] == [3, 9, 10]
    assert [kept[-1] for kept in subset.experts] == [2, 8, 15], "the shared expert is the last"
    scores = expert_scores(model, documents())
    assert scores.shape == (3, 15) and (scores[0, 2:] == 0).all() and (scores[1, 8:] == 0).all()
    assert scores.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    with apply_subset(model, subset):
        seen = record(model, documents(1)[0])
    for layer, kept in enumerate(subset.experts):
        assert set(seen.expert_ids[layer].ravel()) - {-1} <= set(kept[:-1])


def test_a_full_and_a_random_subset_of_uneven_layers():
    config = uneven_model().config
    assert full_subset(config).experts == tuple(tuple(range(n)) for n in (3, 9, 16))
    assert [len(kept) for kept in random_subset(config, 4, 0).experts] == [3, 4, 4]
    assert random_subset(config, 16, 0).experts == full_subset(config).experts


def test_a_subset_of_another_geometry_is_refused():
    model = tiny_model()
    with (
        pytest.raises(ValueError, match="has 3 layers, the model 2"),
        apply_subset(model, ExpertSubset(((0, 1, 2, 15),) * 3, "", (), 4)),
    ):
        pass
    with (
        pytest.raises(ValueError, match="Layer 0 of the subset does not fit"),
        apply_subset(model, ExpertSubset(((0, 1, 99, 15),) * 2, "", (), 4)),
    ):
        pass
