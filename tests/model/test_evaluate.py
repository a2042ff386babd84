"""Evaluation: what is measured is what single passes give, and a cut costs what it should."""

import json
import random

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import normalized_mutual_info_score

from model.data.heldout import HeldOut, held_out
from model.data.pack import pack, unpack
from model.data.seen import seen_shares
from model.data.shards import TokenShard, corpus_digest
from model.evaluate import intervals, measure, modules
from model.evaluate.__main__ import main as evaluate_command
from model.evaluate.passes import router_probabilities, token_losses
from model.run.inference import document_losses
from model.run.inference import router_probabilities as reference_probabilities
from model.run.loading import export_model, load_tokenizer
from model.run.subset import ExpertSubset, apply_subset
from tests.model.helpers import EOS, tiny_model
from tests.model.test_train_command import build, refused

KEEP = (4, 8)


def texts():
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 40, 6)
    return [np.array([EOS, *rng.integers(2, 60, size)], np.int64) for size in sizes]


def documents(per_domain=4):
    """Two domains of other tokens, evaluated and for calibration."""
    made = []
    for domain, (low, high) in {"low": (2, 30), "high": (30, 60)}.items():
        for role in ("evaluated", "calibration"):
            for n in range(per_domain):
                rng = np.random.default_rng(len(made))
                tokens = np.array([EOS, *rng.integers(low, high, 30)], np.int64)
                made.append(HeldOut(f"{domain}-{role}-{n}", domain, role, 0.5 * (n % 2), tokens))
    return made


@pytest.fixture(autouse=True)
def few_experts(monkeypatch):
    monkeypatch.setattr(measure, "KEEP", KEEP)
    monkeypatch.setattr(modules, "CLUSTERS", 4)


def test_losses_and_probabilities_are_those_of_one_document_at_a_time():
    model, tokens = tiny_model(), texts()
    for got, want in zip(token_losses(model, tokens), document_losses(model, tokens), strict=True):
        np.testing.assert_allclose(got, want[1:], rtol=1e-4)
    for place, probs_TLR in router_probabilities(model, tokens):
        want_LTR = reference_probabilities(model, [tokens[place]])
        np.testing.assert_allclose(probs_TLR.transpose(0, 1), want_LTR[:, 1:], atol=1e-5)


def test_each_document_has_the_experts_of_its_own_mask():
    model, tokens = tiny_model(), texts()
    rng = np.random.default_rng(3)
    masks_DLR = np.argsort(rng.random((len(tokens), 2, 15)), -1) < 6
    got = token_losses(model, tokens, masks_DLR)
    for d, text in enumerate(tokens):
        kept = tuple((*map(int, np.flatnonzero(mask)), 15) for mask in masks_DLR[d])
        with apply_subset(model, ExpertSubset(kept, "by hand", (), 7)):
            want = document_losses(model, [text])[0][1:]
        np.testing.assert_allclose(got[d], want, rtol=1e-4)


def test_a_causal_pool_of_all_experts_costs_nothing_and_a_small_one_something():
    model, tokens = tiny_model(), texts()
    full, all_of_them, few = (
        np.concatenate(token_losses(model, tokens, causal_pool=size)) for size in (None, 15, 3)
    )
    np.testing.assert_allclose(all_of_them, full, rtol=1e-4)
    assert np.abs(few - full).max() > 1e-3
    assert not model.training


def test_what_is_measured_of_a_model():
    found = measure.evaluate(tiny_model(), documents())
    summary = found["summary"]["all"]
    losses = {name: np.array(values) for name, values in found["losses"].items()}
    assert set(losses) == {"full"} | {
        f"{kind}/{k}" for kind in ("own", "other", "random", "pool") for k in KEEP
    }
    assert summary["full"][0] == pytest.approx(losses["full"].mean(), abs=1e-3)
    for name, (mean, low, high) in summary["increase"].items():
        assert mean == pytest.approx((losses[name] - losses["full"]).mean(), abs=1e-3)
        assert low <= mean <= high
    assert found["summary"]["unseen"]["documents"] == 4 and summary["documents"] == 8
    assert 0 <= found["modules"]["nmi"][0] <= 1
    assert found["domains"]["low"]["full"] == pytest.approx(losses["full"][:4].mean(), abs=1e-3)
    json.dumps(found, allow_nan=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_measures_what_a_cpu_does():
    on_cpu = measure.evaluate(tiny_model(), documents())
    on_gpu = measure.evaluate(tiny_model().cuda(), documents())
    for name, losses in on_cpu["losses"].items():
        np.testing.assert_allclose(on_gpu["losses"][name], losses, atol=2e-2)
    assert on_gpu["summary"]["all"]["full"] == pytest.approx(
        on_cpu["summary"]["all"]["full"], abs=2e-3
    )


def test_a_dense_model_has_a_loss_and_no_cuts():
    found = measure.evaluate(tiny_model(objective="dense"), documents())
    assert list(found["losses"]) == ["full"] and found["modules"] == {}


def test_a_model_whose_first_layer_is_dense_is_cut_in_the_other():
    model = tiny_model(num_experts_per_layer=[0, 16], dense_intermediate_size=32)
    found = measure.evaluate(model, documents())
    assert len(found["losses"]) == 9 and found["summary"]["all"]["increase"]["own/4"][0] != 0


def test_experts_are_chosen_from_the_calibration_documents_alone():
    calibration = [each for each in documents() if each.role == "calibration"]
    changed = [each for each in documents() if each.role == "evaluated"][::-1]
    model = tiny_model()
    for name in ("own/4", "other/8"):
        one, other = (
            measure.evaluate(model, [*some, *calibration])["losses"][name]
            for some in (changed[:5], changed)
        )
        np.testing.assert_allclose(one, other[:5], atol=1e-3)


def test_keep_sets_are_the_experts_of_the_highest_score():
    scores = np.array([[[0.1, 0.4, 0.4, 0.1]]])
    assert measure.keep_sets(scores, 3)[0, 0].tolist() == [True, True, True, False]


def test_repeated_pairs_are_told_from_the_rest():
    tokens = np.array([0, 5, 6, 7, 5, 6, 5, 6])
    assert measure._is_repeat(tokens).tolist() == [False] * 4 + [True, False, True]


def test_nmi_is_that_of_scikit_learn_and_one_for_the_same_grouping():
    rng = np.random.default_rng(0)
    labels, documents_N = rng.integers(0, 4, 300), np.repeat(np.arange(30), 10)
    domains_D = np.arange(30) % 3
    found = modules.agreement(labels, documents_N, domains_D)
    want = normalized_mutual_info_score(domains_D[documents_N], labels)
    mean, low, high = found["nmi"]
    assert mean == pytest.approx(want, abs=1e-5) and low < mean < high
    same = modules.agreement(domains_D[documents_N], documents_N, domains_D)
    assert same["nmi"][0] == 1 and same["modal_share"] == [1, 1, 1]
    assert found["nmi_chance"] == pytest.approx(found["nmi"][0], abs=0.03)


def test_clusters_find_planted_groups_whatever_the_seed():
    rng = np.random.default_rng(0)
    planted = rng.integers(0, 4, 400)
    rows_NF = torch.from_numpy(np.eye(12)[planted * 3] + rng.normal(0, 0.05, (400, 12))).float()
    for seed in range(3):
        found = modules.token_clusters(rows_NF, 4, seed)
        assert normalized_mutual_info_score(planted, found) > 0.99


def test_overlap_of_keep_sets_is_their_jaccard():
    masks_MLR = np.zeros((3, 1, 6), bool)
    masks_MLR[0, 0, :4] = masks_MLR[1, 0, 2:] = masks_MLR[2, 0, 2:] = True
    assert modules.keep_overlap(masks_MLR) == pytest.approx(
        [(1 / 3 + 1 / 3 + 1) / 3, 1 / 3, 1], 1e-4
    )


def test_an_interval_over_documents_weighs_tokens_in_a_domain_and_domains_alike():
    loss_DC = np.array([[1.0], [3.0], [5.0]])
    means, drawn = intervals.domain_means(loss_DC, np.array([1.0, 3.0, 7.0]), np.array([0, 0, 1]))
    assert means[0] == pytest.approx((2.5 + 5) / 2)
    assert drawn.min() == pytest.approx(3) and drawn.max() == pytest.approx(4)


def test_the_share_of_a_document_that_was_seen():
    rng = np.random.default_rng(0)
    train = rng.integers(2, 60, 5000).astype(np.uint16)
    fresh = np.array([EOS, *rng.integers(60, 99, 50)])
    half = np.concatenate([[EOS], train[100:130], fresh[1:31]])
    assert seen_shares(train, [fresh, half, fresh[:5]]) == [0, pytest.approx(11 / 41), 0]


def test_a_seen_sequence_is_found_across_the_blocks_of_the_stream(monkeypatch):
    monkeypatch.setattr("model.data.seen.BLOCK", 64)
    monkeypatch.setattr("model.data.seen.AT_ONCE", 50)  # eight files of hashes
    train = np.random.default_rng(0).integers(2, 60, 500).astype(np.uint16)
    document = np.concatenate([[EOS], train[40:100]])
    other = np.concatenate([[EOS], train[300:320], [70]])
    found = seen_shares(train, [document, other, document, document])
    assert found == [1, 0.5, 1, 1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build(tmp_path_factory.mktemp("corpus") / "one", 1)


def test_held_out_documents_of_both_roles_share_no_parent(corpus):
    found = held_out(corpus, 3, 2)
    assert sorted(each.role for each in found) == ["calibration"] * 2 + ["evaluated"] * 3
    assert len({each.id for each in found}) == 5
    assert all(each.tokens[0] == EOS and len(each.tokens) <= 256 for each in found)
    with pytest.raises(ValueError, match=r"No domain of .* has 500 held-out documents"):
        held_out(corpus, 500, 2)


def test_a_packed_corpus_is_one_for_training_and_has_what_evaluation_needs(corpus, tmp_path):
    manifest = pack(corpus, tmp_path / "packed.tar.xz", 9_000, 3, 2)
    folder = unpack(tmp_path / "packed.tar.xz", tmp_path / "there")
    train, whole = TokenShard.open(folder, "train"), TokenShard.open(corpus, "train")
    assert 8_000 < len(train.tokens) <= 9_000
    assert np.array_equal(train.tokens, whole.tokens[: len(train.tokens)])
    packed, own = held_out(folder), held_out(corpus, 3, 2)
    assert [(p.id, p.role) for p in packed] == [(o.id, o.role) for o in own]
    assert all(np.array_equal(p.tokens, o.tokens) for p, o in zip(packed, own, strict=True))
    assert corpus_digest(folder) == manifest["digest"] != corpus_digest(corpus)
    assert load_tokenizer(folder / "tokenizer").eos_token_id == EOS
    assert unpack(tmp_path / "packed.tar.xz", folder) == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.tar.xz", "there"]


def test_a_packed_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "bad.tar.xz").write_bytes(random.Random(0).randbytes(100))
    with pytest.raises(ValueError, match="is no packed corpus, or damaged"):
        unpack(tmp_path / "bad.tar.xz", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def evaluated(corpus, model, out, *options):
    arguments = ["--model", model, "--corpus", corpus, "--out", out, *options]
    return CliRunner().invoke(evaluate_command, [str(argument) for argument in arguments])


def test_the_command_writes_what_it_measured(corpus, tmp_path):
    tokenizer = load_tokenizer(corpus / "tokenizer")
    model = tiny_model(vocab_size=320, max_position_embeddings=256)
    export_model(model, tokenizer, tmp_path / "model")
    out = tmp_path / "found.json"
    result = evaluated(corpus, tmp_path / "model", out, "--per-domain", 2)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["corpus"] == corpus_digest(corpus) and found["format"] == measure.FORMAT
    assert f"{found['summary']['all']['full'][0]:.3f} nats a token on 2 documents" in result.output


def test_the_command_says_what_is_wrong(corpus, tmp_path):
    out = tmp_path / "found.json"
    assert "There is no checkpoint" in refused(evaluated(corpus, tmp_path / "none", out))
    export_model(tiny_model(), load_tokenizer(corpus / "tokenizer"), tmp_path / "model")
    told = refused(evaluated(corpus, tmp_path / "model", out, "--per-domain", 2))
    assert "does not fit the model" in told
    assert not out.exists()
