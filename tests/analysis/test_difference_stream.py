"""Pairs on disk give the numbers of pairs in memory, and only one of them is in memory at once."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from emo_viz.analysis import difference
from emo_viz.analysis.difference import RoutedDocument, compare_pairs, matched
from emo_viz.analysis.difference_stream import paired
from emo_viz.analysis.difference_table import by_layer, most_different
from emo_viz.analysis.matching import matched_by_use
from tests.recipes import realigned

LAYERS, EXPERTS, SLOTS = 3, 16, 4


def document(name: str, tokens: int, seed: int, whole: bool = True) -> RoutedDocument:
    rng = np.random.default_rng(seed)
    ids = rng.random((tokens, LAYERS, EXPERTS)).argsort(-1)[..., :SLOTS].astype(np.int32)
    if not whole:
        return RoutedDocument(name, ids)
    loss = rng.random(tokens).astype(np.float32)
    return RoutedDocument(name, ids, rng.random(ids.shape), loss, np.arange(tokens))


def sides(whole: bool) -> tuple[list[RoutedDocument], list[RoutedDocument]]:
    first = [document(f"d{n}", 30 + n, n) for n in range(30)]
    other = [document(f"d{n}", 33 + n % 5, n // 2, whole) for n in range(30)]
    return first, other


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("by_use", [True, False])
def test_the_numbers_are_the_same(whole: bool, by_use: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(difference, "CHANCE_TOKENS", 200)
    first, other = sides(whole)
    pairs, notes = paired(zip(first, other, strict=True))
    known, said = matched(first, realigned(first, other)[0])
    assert notes == said and len(pairs) == len(known)
    both = [matched_by_use(each) if by_use else each for each in (pairs, known)]
    found, expected = (compare_pairs(each, notes) for each in both)
    for name in ("documents", "tokens", "layers", "loss", "notes"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.first_layer, expected.first_layer)
    table = most_different(found, pairs.heads, 50)
    assert table.equals(most_different(expected, known, 50))
    assert by_layer(found, (0, 2, 5))["overlap"].tolist() == [
        layer.overlap.mean for layer in found.layers
    ]
    assert pairs[-1].id == "d29" and [pair.id for pair in pairs[:2]] == ["d0", "d1"]
    assert pairs.heads[0].weights == (True, whole)


def test_documents_of_other_ids_are_compared_in_their_order():
    first, other = sides(True)
    renamed = [RoutedDocument(f"x{n}", d.expert_ids) for n, d in enumerate(other)]
    pairs, notes = paired(zip(first, renamed, strict=True))
    assert "in their order" in notes[0] and pairs[3].second.id == "x3"


def test_memory_does_not_grow_with_the_routing_of_the_documents():
    def many(number: int) -> Iterator[tuple[RoutedDocument, RoutedDocument]]:
        return ((document(f"{n}", 400, n), document(f"{n}", 400, n + 1)) for n in range(number))

    tracemalloc.start()
    pairs, _ = paired(many(100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one = 2 * 400 * (LAYERS * SLOTS * 12 + 12)  # bytes of a pair
    assert peak < 35 * one  # the first 20 tell whether one run begins a place later
    assert len(pairs) == 100
