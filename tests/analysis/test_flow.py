"""Experts that work together, beside what independence gives."""

import numpy as np
import pytest

from emo_viz.analysis.flow import expected_pairs, information, neighbours, partners, stream


def test_independent_choices_show_nothing():
    rng = np.random.default_rng(1)
    chosen = np.zeros((20_000, 8), bool)
    for row in chosen:
        row[rng.choice(8, 2, replace=False)] = True
    pairs = (chosen.astype(int).T @ chosen).astype(np.int64)
    expected = expected_pairs(pairs)
    off = ~np.eye(8, dtype=bool)
    assert expected[off].sum() == pytest.approx(pairs[off].sum())
    assert (pairs / np.where(off, expected, np.inf))[off] == pytest.approx(1, abs=0.15)


def test_partners_come_by_how_far_they_are_above_independence():
    pairs = np.array([[100, 60, 20], [60, 100, 20], [20, 20, 40]])
    table = partners(pairs, 0)
    assert table["expert"].tolist() == [1, 2]
    assert table["share"].tolist() == [0.6, 0.2]
    assert table["expected"][0] == pytest.approx(expected_pairs(pairs)[0, 1] / 100)
    assert table["times"][0] > 1 > table["times"][1]


def test_neighbours_before_and_after():
    flow = np.array([[8.0, 2.0], [1.0, 9.0]])
    after, before = neighbours(flow, 0, back=False), neighbours(flow, 0, back=True)
    assert after["expert"][0] == 0 and after["share"][0] == pytest.approx(0.8)
    assert after["expected"][0] == pytest.approx(9 / 20)
    assert before["share"][0] == pytest.approx(8 / 9)


def test_information_of_a_copy_is_all_and_of_a_product_none():
    copy = information(np.eye(4) * 250, 1000)
    assert copy.known == pytest.approx(np.log(4)) and copy.possible == pytest.approx(np.log(4))
    assert information(np.outer([1, 2, 3], [2, 2, 1]), 100).known == pytest.approx(0, abs=1e-9)
    assert copy.by_chance == pytest.approx(9 / 2000)


def test_a_stream_loses_nothing_into_other():
    rng = np.random.default_rng(2)
    flows = [rng.random((10, 10)) ** 4, rng.random((10, 10)) ** 4]
    found = stream(flows, 3)
    assert [len(own) for own in found.nodes] == [4, 4, 4] and all(n[-1] == -1 for n in found.nodes)
    assert found.links.groupby("layer")["share"].sum().tolist() == pytest.approx([1, 1])
    last = found.links[(found.links["source"] == 3) & (found.links["target"] == 3)]
    assert found.rest == pytest.approx(last["share"].mean())
    for _, link in found.links[found.links["layer"] == 0].iterrows():
        source, target = found.nodes[0][int(link["source"])], found.nodes[1][int(link["target"])]
        rows = [source] if source >= 0 else [n for n in range(10) if n not in found.nodes[0]]
        columns = [target] if target >= 0 else [n for n in range(10) if n not in found.nodes[1]]
        part = flows[0][np.ix_(rows, columns)].sum() / flows[0].sum()
        assert link["share"] == pytest.approx(part)
        usual = flows[0][rows].sum() * flows[0][:, columns].sum() / flows[0].sum() ** 2
        assert link["times"] == pytest.approx(part / usual)


def test_streams_are_named_by_the_ids_of_experts_and_the_numbers_of_layers():
    rng = np.random.default_rng(2)
    found = stream([rng.random((10, 10)) ** 4, rng.random((10, 10)) ** 4], 3)
    table = found.named([4, 6, 7])
    for (_, link), (_, row) in zip(found.links.iterrows(), table.iterrows(), strict=True):
        layer = int(link["layer"])
        ends = found.nodes[layer][int(link["source"])], found.nodes[layer + 1][int(link["target"])]
        named = ["other" if expert < 0 else str(expert) for expert in ends]
        assert [row["expert"], row["next_expert"]] == named
        assert (row["layer"], row["next_layer"]) == ((4, 6), (6, 7))[layer]
        assert (row["share"], row["times"]) == (link["share"], link["times"])


def test_the_strongest_streams_are_furthest_above_independence():
    found = stream([np.array([[6.0, 2, 1, 1], [2, 4, 2, 2], [1, 2, 3, 4], [1, 2, 4, 3]])], 3)
    best = found.strongest([0, 1], 2)
    assert best[["expert", "next_expert"]].to_numpy().tolist() == [["0", "0"], ["1", "1"]]
    assert best["share"].tolist() == [0.15, 0.1]
    assert best["times"].tolist() == pytest.approx([2.4, 1.6])
    assert "other" not in found.strongest([0, 1], 99)[["expert", "next_expert"]].to_numpy()
