"""Families of domains: by their names where these begin alike, else by their routing."""

import numpy as np

from emo_viz.analysis.families import families, mean_routing

NAMES = ["code_a", "code_b", "law", "tax", "sea", "ship", "tea", "cake"]
ROUTING = {name: np.eye(4)[place // 2] for place, name in enumerate(NAMES)}


def members(found: dict[str, int]) -> set[frozenset[str]]:
    return {frozenset(n for n in found if found[n] == each) for each in set(found.values())}


def test_few_names_are_a_family_each():
    assert families(["b", "a", "b"], {}) == {"a": 0, "b": 1}


def test_names_that_begin_alike_and_names_that_are_routed_alike():
    found = families(NAMES, ROUTING, most=4)
    wanted = [["code_a", "code_b"], ["law", "tax"], ["sea", "ship"], ["tea", "cake"]]
    assert members(found) == set(map(frozenset, wanted))
    assert sorted(set(found.values())) == [0, 1, 2, 3]


def test_any_names_do():
    names = ["_", "", "a_", "_b", "x_y_z", "é", "日本", "x_"]
    rng = np.random.default_rng(0)
    found = families(names, {name: rng.random(3) for name in names}, most=3)
    assert found.keys() == set(names) and set(found.values()) <= {0, 1, 2}


def test_more_prefixes_than_families():
    names = [f"{prefix}_{i}" for prefix in "abcdefgh" for i in range(2)]
    rng = np.random.default_rng(0)
    found = families(names, {name: rng.random(3) for name in names}, most=6)
    assert len(set(found.values())) == 6


def test_the_mean_is_of_the_groups_rows():
    found = mean_routing(["a", "b", "a"], np.array([[1, 0], [5, 5], [3, 2]]))
    assert found["a"].tolist() == [2, 1] and found["b"].tolist() == [5, 5]
