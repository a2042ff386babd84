"""What sets clusters apart: enriched words and experts, domains, labels."""

import numpy as np
import pytest

from emo_viz.analysis.clusters import Clustering
from emo_viz.analysis.profiles import (
    cluster_table,
    enriched,
    expert_name,
    label,
    top_experts,
    top_shares,
    word_table,
)

TEXTS = ["The tide and the rope"] * 4 + ["The oven and THE flour!"] * 4
DOMAINS = ["harbour"] * 4 + ["kitchen"] * 4


def two_clusters():
    labels = np.repeat([0, 1], 4)
    return Clustering(labels, np.eye(2, dtype=np.float32))


def test_words_count_documents_once_and_need_three_of_them():
    table = word_table(["a rope, Rope ROPE", "rope 12 x9", "rope tide", "tide"])
    assert table.words.tolist() == ["rope"]
    assert table.table.toarray().ravel().tolist() == [1, 1, 1, 0]


def test_texts_without_common_words_give_an_empty_table():
    assert word_table(["12 34", "!"]).words.size == 0


def test_enriched_columns_are_frequent_and_concentrated():
    everywhere = np.array([0.5, 0.10, 0.10, 0.4, 0.0])
    inside = np.array([[0.5, 0.20, 0.15, 0.2, 0.0]])
    assert enriched(inside, everywhere, 3) == [[1, 2]]
    assert enriched(inside, everywhere, 1) == [[1]]


def test_table_of_planted_clusters():
    usage = np.full((8, 2, 3), 0.2, np.float16)
    usage[:4, 1, 2] = 0.6
    row = cluster_table(two_clusters(), DOMAINS, word_table(TEXTS), usage).iloc[0]
    assert row["label"] == "harbour 100 % · rope tide"
    assert (row["cluster"], row["documents"], row["purity"]) == (0, 4, 1.0)
    assert row["top_domains"] == "harbour 100 %"
    assert row["words"] == "rope, tide"  # "the" and "and" are everywhere
    assert row["experts"] == "L1 E2 ×1.5"


def test_shares_of_a_cluster_without_rows_are_empty():
    shares = top_shares(["a", "a", "b", "c"], np.array([0, 0, 0, 2]), 3)
    assert shares == [[("a", pytest.approx(2 / 3)), ("b", pytest.approx(1 / 3))], [], [("c", 1.0)]]


@pytest.mark.parametrize(
    ("shares", "words", "expected"),
    [
        ([("rfc", 0.71), ("code", 0.1)], list("abcd"), "rfc 71 % · a b c"),
        ([("rfc", 0.4), ("code", 0.3), ("law", 0.3)], [], "rfc 40 % + code 30 %"),
        ([("rfc", 0.1)], ["a"], "mixed · a"),
        ([], [], "mixed"),
    ],
)
def test_label(shares, words, expected):
    assert label(shares, words) == expected


def test_top_expert_of_one_layer_or_of_any():
    usage = np.zeros((2, 2, 3), np.float16)
    usage[0, 0, 1], usage[0, 1, 2] = 0.9, 0.5
    usage[1, 0, 0], usage[1, 1, 0] = 0.3, 0.4
    assert top_experts(usage) == ["L0 E1", "L1 E0"]
    assert top_experts(usage, 1) == ["L1 E2", "L1 E0"]
    assert expert_name(5, 3) == "L1 E2"
