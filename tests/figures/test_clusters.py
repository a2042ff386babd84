"""Figures of clusters: how groups look, and where each of them lies."""

import colorsys
import itertools

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.runs import Run, compare
from emo_viz.figures.clusters import (
    SCALE,
    Shown,
    colour_groups,
    family_groups,
    scale_groups,
    share_heatmap,
)
from emo_viz.figures.theme import GROUP_COLOURS, OTHER_COLOUR

RUNS = compare([Run("emo-nano", "EMO"), Run("std-nano", "Standard MoE")])


def test_up_to_ten_groups_have_a_colour_and_a_marker_each():
    names = [name for i, name in enumerate("abcdefghij") for _ in range(20 - i)]
    groups = colour_groups(names)
    assert [group.name for group in groups] == list("abcdefghij")
    assert {group.colour for group in groups} == set(GROUP_COLOURS)
    assert len({group.symbol for group in groups}) == len({group.sign for group in groups}) == 10
    assert [len(group.rows) for group in groups] == list(range(20, 10, -1))


def test_more_groups_fall_into_others():
    names = [f"g{i:02}" for i in range(13) for _ in range(30 - i)]
    groups = colour_groups(names)
    assert [group.name for group in groups][-2:] == ["g09", "3 others"]
    assert groups[-1].colour == OTHER_COLOUR
    assert sorted(np.concatenate([group.rows for group in groups])) == list(range(len(names)))
    assert groups[-1].symbol not in {group.symbol for group in groups[:-1]}


def test_a_single_group_too_many_keeps_its_name():
    groups = colour_groups([f"g{i:02}" for i in range(11) for _ in range(30 - i)])
    assert groups[-1].name == "g10" and groups[-1].colour == OTHER_COLOUR


def test_a_small_group_can_be_given_a_colour():
    names = [f"g{i:02}" for i in range(13) for _ in range(30 - i)]
    groups = colour_groups(names, first=["g12"])
    assert groups[0].name == "g12" and groups[0].colour == GROUP_COLOURS[0]
    assert "g12" not in [group.name for group in groups[1:]]


def test_thirty_groups_differ_in_colour_or_marker():
    groups = colour_groups([f"g{i:02}" for i in range(30)], most=30)
    assert OTHER_COLOUR not in {group.colour for group in groups}
    assert len({(group.colour, group.symbol) for group in groups}) == 30
    assert len({(group.colour, group.sign) for group in groups}) == 30


FAMILIES = {"law": 0, "sea": 0, "code_a": 1, "code_b": 1, "code_c": 1}


def looks(names: list[str], families: dict[str, int]) -> dict[str, tuple[str, str]]:
    return {each.name: (each.colour, each.symbol) for each in family_groups(names, families)}


def test_a_family_has_a_hue_and_each_of_its_members_a_marker():
    found = looks(list(FAMILIES) * 2, FAMILIES)
    assert len(set(found.values())) == len({symbol for _, symbol in found.values()}) + 2
    hues = {name: hue(colour) for name, (colour, _) in found.items()}
    assert hues["code_a"] == pytest.approx(hues["code_b"], abs=0.02)
    assert abs(hues["law"] - hues["code_a"]) > 0.1


def hue(colour: str) -> float:
    return colorsys.rgb_to_hsv(*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0]


def test_thirty_members_of_six_families_differ():
    names = [f"{i}-{j:02}" for i in range(6) for j in range(30)]
    assert len(set(looks(names, {name: int(name[0]) for name in names}).values())) == 180


def test_how_many_rows_a_group_has_changes_nothing_of_its_look():
    few, many = looks(list(FAMILIES), FAMILIES), looks([*FAMILIES, *["sea"] * 9], FAMILIES)
    assert few == many


def test_values_make_groups_of_about_as_many_rows_from_low_to_high():
    values = np.random.default_rng(0).permutation(np.arange(50.0))
    groups = scale_groups(values, values, ".0f", "nats")
    assert [len(group.rows) for group in groups] == [10] * 5
    assert [group.name for group in groups][:2] == ["0 to 9 nats", "10 to 19 nats"]
    assert len({group.colour for group in groups}) == 5
    (alone,) = scale_groups(np.ones(4), np.ones(4), ".0f", "nats")
    assert alone.name == "1 nats" and alone.rows.tolist() == [0, 1, 2, 3]


def test_a_colour_means_the_same_values_on_every_map():
    low, high = np.arange(30.0), np.arange(20.0, 50.0)
    first, second = (
        {each.colour: each.name for each in scale_groups(values, np.arange(50.0), ".0f", "nats")}
        for values in (low, high)
    )
    assert list(first) == list(SCALE[:3]) and list(second) == list(SCALE[2:])
    assert first[SCALE[2]] == second[SCALE[2]] == "20 to 29 nats"


def test_the_shades_of_a_scale_can_be_told_apart():
    steps = [np.linalg.norm(oklab(one) - oklab(other)) for one, other in itertools.pairwise(SCALE)]
    assert min(steps) > 0.1
    assert np.all(np.diff([luminance(colour) for colour in SCALE]) < 0)


def oklab(colour: str) -> np.ndarray:
    lms = np.cbrt(_TO_CONES @ [linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5)])
    return _TO_LAB @ lms


_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@pytest.mark.parametrize("luminance_of_page", [1.0, 0.0075])
def test_families_and_scale_can_be_seen_on_both_pages(luminance_of_page: float):
    names = [f"{i}-{j}" for i in range(6) for j in range(3)]
    colours = [colour for colour, _ in looks(names, {n: int(n[0]) for n in names}).values()]
    for colour in (*colours, *SCALE):
        low, high = sorted((luminance(colour), luminance_of_page))
        assert (high + 0.05) / (low + 0.05) >= 2.99, colour


def luminance(colour: str) -> float:
    red, green, blue = (linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def test_colours_can_be_claimed_in_an_order():
    groups = colour_groups(list("aaabbc"), first=["c", "missing", "b"])
    assert [group.name for group in groups] == ["c", "b", "a"]
    assert [group.colour for group in groups] == list(GROUP_COLOURS[:3])


def test_heatmap_gives_shares_of_domains_and_counts():
    tables = {
        "emo-nano": pd.DataFrame([[0, 4], [6, 2]], index=["law", "sea"], columns=[0, 1]),
        "std-nano": pd.DataFrame([[2, 2], [4, 4]], index=["law", "sea"], columns=[0, 1]),
    }
    fig = share_heatmap(RUNS, tables, "title", Shown("domain", "documents", matched=True))
    emo = fig.data[0]
    cells = {
        (y, x): (emo.z[i][j], emo.customdata[i][j])
        for i, y in enumerate(emo.y)
        for j, x in enumerate(emo.x)
    }
    assert cells == {
        ("law", "0"): (0, 0),
        ("law", "1"): (100, 4),
        ("sea", "0"): (75, 6),
        ("sea", "1"): (25, 2),
    }
    assert list(fig.data[1].y) == list(emo.y) and list(fig.data[1].x) == list(emo.x)
    assert [emo.z[i][i] for i in range(2)] == pytest.approx([75, 100])
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 100)


def test_clusters_that_do_not_match_are_ordered_in_each_panel():
    tables = {
        "emo-nano": pd.DataFrame([[2, 2], [2, 2]], index=["law", "sea"], columns=["3", "5"]),
        "std-nano": pd.DataFrame([[0, 4], [6, 0]], index=["law", "sea"], columns=["7", "9"]),
    }
    fig = share_heatmap(RUNS, tables, "title", Shown("token", "tokens", matched=False))
    standard = fig.data[1]
    assert [standard.z[i][i] for i in range(2)] == [100, 100]  # rows follow the clearer table
    assert {fig.data[0].x[0], standard.x[0]} <= {"3", "5", "7", "9"}
    assert list(fig.data[0].y) == list(standard.y)
    assert "of the token's tokens" in standard.hovertemplate
