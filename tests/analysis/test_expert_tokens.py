"""What tokens say of experts, against counting token by token; and its file."""

import numpy as np
import pytest

from emo_viz.analysis import expert_tokens
from emo_viz.analysis.expert_tokens import ENRICHED, MIN_COUNT, Gathering

RNG = np.random.default_rng(5)
LAYERS, EXPERTS, SLOTS = 3, 7, 2


def document(tokens: int):
    """Ids, gate weights, token ids and texts of a document with an opening token."""
    ids = np.stack(
        [
            [RNG.choice(EXPERTS, SLOTS, replace=False) for _ in range(tokens + 1)]
            for _ in range(LAYERS)
        ]
    )
    gates = RNG.random(ids.shape)
    token_ids = RNG.integers(0, 9, tokens + 1)
    return ids, gates, token_ids, ["", *(f"<{t}>" for t in token_ids[1:])]


@pytest.fixture
def documents():
    return [document(int(n)) for n in RNG.integers(30, 60, 6)]


def gathered(documents) -> expert_tokens.ExpertTokens:
    gathering = Gathering(range(LAYERS), [EXPERTS] * LAYERS)
    for row, one in enumerate(documents):
        gathering.add(row, *one)
    return gathering.finish("run", {})


def test_counts_pairs_and_flow_are_those_of_single_tokens(documents):
    found = gathered(documents)
    pairs = np.zeros((LAYERS, EXPERTS, EXPERTS), int)
    flow = np.zeros((LAYERS - 1, EXPERTS, EXPERTS))
    for ids, gates, token_ids, _ in documents:
        for at in range(1, len(token_ids)):
            for layer in range(LAYERS):
                for a in ids[layer, at]:
                    for b in ids[layer, at]:
                        pairs[layer, a, b] += 1
            for layer in range(LAYERS - 1):
                one, two = (gates[n, at] / gates[n, at].sum() for n in (layer, layer + 1))
                for a, x in zip(ids[layer, at], one, strict=True):
                    for b, y in zip(ids[layer + 1, at], two, strict=True):
                        flow[layer, a, b] += x * y
    assert np.array_equal(found.pairs, pairs)
    assert np.array_equal(found.counts, pairs.diagonal(axis1=1, axis2=2))
    assert found.flow == pytest.approx(flow, abs=1e-4)
    assert found.tokens == sum(len(one[2]) - 1 for one in documents)


def test_contexts_are_the_largest_weights_one_a_document(documents):
    found = gathered(documents)
    best = []
    for row, (ids, gates, _, texts) in enumerate(documents):
        at = np.argwhere(ids[1, 1:] == 4)
        weights = [(gates[1, 1 + token, slot], row, token + 1) for token, slot in at]
        if weights:
            weight, row, position = max(weights)
            start = len("".join(texts[:position]))
            best.append((row, position, start, start + len(texts[position]), weight))
    best.sort(key=lambda each: -each[-1])
    assert found.context_rows[1, 4].tolist() == [each[0] for each in best]
    assert found.context_positions[1, 4].tolist() == [each[1] for each in best]
    assert found.context_starts[1, 4].tolist() == [each[2] for each in best]
    assert found.context_ends[1, 4].tolist() == [each[3] for each in best]
    assert found.context_gates[1, 4] == pytest.approx([each[4] for each in best])


def test_enriched_tokens_have_the_ratio_of_their_shares(documents):
    for ids, _, token_ids, _ in documents:  # expert 0 of layer 2 serves token 3 whenever it can
        for at in np.flatnonzero(token_ids[1:] == 3) + 1:
            if 0 not in ids[2, at]:
                ids[2, at, 0] = 0
    found = gathered(documents)
    assert found.enriched[2, 0, 0] == 3 and found.texts[3] == "<3>"
    chosen = [(ids[2, 1:] == 0).any(axis=1) for ids, *_ in documents]
    token = np.concatenate([token_ids[1:] for _, _, token_ids, _ in documents])
    inside = token[np.concatenate(chosen)]
    assert found.enriched_counts[2, 0, 0] == (inside == 3).sum()
    ratio = (inside == 3).mean() / (token == 3).mean()
    assert found.enriched_ratios[2, 0, 0] == pytest.approx(ratio)
    assert (found.enriched_counts[found.enriched >= 0] >= MIN_COUNT).all()


def test_what_a_source_lacks_is_left_out(documents):
    gathering = Gathering(range(LAYERS), [EXPERTS] * LAYERS)
    ids = documents[0][0]
    gathering.add(0, ids, None, None, None)
    found = gathering.finish("run", {})
    assert (found.enriched == -1).all() and np.isnan(found.context_gates).all()
    assert found.context_starts.max() == -1 and found.counts.sum() == ids[:, 1:].size
    with pytest.raises(ValueError, match="without a document"):
        Gathering([0], [4]).finish("run", {})


def test_a_token_that_only_continues_a_character_is_named_after_it():
    gathering = Gathering([0], [2])
    ids = np.zeros((1, 41, 1), int)
    texts = ["", *(["\u4e2d", ""] * 20)]
    gathering.add(0, ids, None, np.array([9, *[1, 2] * 20]), texts)
    gathering.add(1, np.ones((1, 41, 1), int), None, np.array([9, *[1, 3] * 20]), ["", *"ab" * 20])
    assert gathering.finish("run", {}).texts[2] == "\u2026\u4e2d"


def test_the_file_is_read_as_it_was_written(documents, tmp_path):
    found = gathered(documents)
    expert_tokens.save(tmp_path / "experts.npz", found)
    again = expert_tokens.load(tmp_path / "experts.npz")
    assert again.texts == found.texts and again.tokens == found.tokens and again.run == "run"
    assert np.array_equal(again.pairs, found.pairs)
    assert np.array_equal(again.enriched, found.enriched)
    assert again.enriched.shape[-1] == ENRICHED
    (tmp_path / "experts.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="is damaged"):
        expert_tokens.load(tmp_path / "experts.npz")
