"""Both ways to run a model live say the same of one model; what cannot be run is one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import save_tiny, save_tokenizer, tiny_model

from model.families import routed
from model.run.live import LiveEmo, LiveFamily, open_live
from model.run.loading import load_tokenizer
from model.run.opening import Opened
from model.run.subset import random_subset

SHARED = 7  # of the tiny EMO, which a family's geometry does not count


@pytest.fixture
def pair(tmp_path: Path) -> tuple[LiveEmo, LiveFamily]:
    """One EMO model in its own way and in the way of every other family."""
    made = tiny_model("emo")
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    return LiveEmo(made, tokenizer), LiveFamily(Opened("emo", tmp_path, routed(made), tokenizer))


TEXT = "w5 w9 w20 w9 w33 w70 w95 w5"


def test_both_ways_record_the_same(pair) -> None:
    own, other = pair
    encoded, again = (each.encode(TEXT, 32) for each in pair)
    assert encoded.token_ids.tolist() == again.token_ids.tolist() == [1, 5, 9, 20, 9, 33, 70, 95, 5]
    one, two = (each.record(encoded.token_ids) for each in pair)
    assert own.own_layers == other.own_layers == (0, 1, 2)
    for name in vars(one):
        first, second = getattr(one, name), getattr(two, name)
        assert first.shape == second.shape and not second.flags.writeable
        np.testing.assert_allclose(first, second, atol=1e-6, err_msg=name)
    assert encoded.token_ids.flags.writeable  # what was given is not frozen


def test_both_ways_cut_the_same(pair) -> None:
    own, other = pair
    ids = own.encode(TEXT, 32).token_ids
    kept = random_subset(own.geometry, 4, seed=1).experts
    routed_kept = [[expert for expert in layer if expert != SHARED] for layer in kept]
    whole, cut = own.losses(ids), own.losses(ids, kept)
    assert np.abs(whole[1:] - cut[1:]).max() > 1e-3
    np.testing.assert_allclose(other.losses(ids), whole, atol=1e-6)
    np.testing.assert_allclose(other.losses(ids, routed_kept), cut, atol=1e-6)
    assert own.go_on(ids, 8, kept) == other.go_on(ids, 8, routed_kept)
    chosen = other.select([ids[:5], ids], 2, "greedy", ("a", "b"))
    assert chosen.calibration == ("a", "b") and {len(layer) for layer in chosen.experts} == {2}


def test_greedy_measures_each_layer_with_those_below_already_cut(pair) -> None:
    _, live = pair
    documents = [live.encode(TEXT, 32).token_ids]
    chosen = live.select(documents, 3, "greedy").experts
    everything = [list(range(count)) for count in live.geometry.experts]
    for layer, kept in enumerate(chosen):
        below = [*map(list, chosen[:layer]), *everything[layer:]]
        scores = live.scores(documents, below)[layer]
        assert sorted(np.argsort(-scores, kind="stable")[:3].tolist()) == list(kept)


def test_scores_are_the_mean_over_the_tokens_of_all_documents(pair) -> None:
    _, live = pair
    documents = [live.encode(text, 32).token_ids for text in (TEXT, "w4 w8 w16", "w50")]
    probs = [live.record(ids).router_probs[:, 1:] for ids in documents]
    expected = np.concatenate(probs, axis=1).mean(1)
    np.testing.assert_allclose(live.scores(documents), expected, atol=1e-6)


@pytest.mark.parametrize(("family", "why"), [("nllb-moe", "cannot be cut"), ("mixtral", "")])
def test_what_cannot_be_cut_says_why(tmp_path: Path, family: str, why: str) -> None:
    save_tiny(family, tmp_path)
    live = open_live(tmp_path)
    assert why in live.why_not_cut and bool(why) == bool(live.why_not_cut)
    ids = live.encode("w5 w6", 32).token_ids
    if why:
        with pytest.raises(ValueError, match=why):
            live.losses(ids, [[0]] * len(live.own_layers))
    with pytest.raises(ValueError, match=why or "does not fit"):
        live.losses(ids, [[99]] * len(live.own_layers))


def test_a_model_without_a_token_to_open_texts_is_one_sentence(tmp_path: Path) -> None:
    save_tiny("olmoe", tmp_path, bos_token_id=None, eos_token_id=None)
    save_tokenizer(tmp_path, unk_token="<unk>")
    with pytest.raises(ValueError, match="no token that could open a text"):
        open_live(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["emo", "olmoe", "gpt_oss"])
def test_a_device_says_what_the_cpu_says(tmp_path: Path, family: str) -> None:
    save_tiny(family, tmp_path)
    here, there = open_live(tmp_path), open_live(tmp_path, "cuda")
    ids = here.encode(TEXT, 32).token_ids
    kept = random_subset(here.geometry, 4, seed=1).experts
    for experts in ((), kept):
        near = {"rtol": 1e-3, "atol": 1e-3}
        np.testing.assert_allclose(here.losses(ids, experts), there.losses(ids, experts), **near)
        np.testing.assert_allclose(
            here.scores([ids], experts), there.scores([ids], experts), **near
        )
    assert here.go_on(ids, 4) == there.go_on(ids, 4)
    np.testing.assert_allclose(here.record(ids).entropy, there.record(ids).entropy, **near)
