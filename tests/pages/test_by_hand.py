"""The subset ablation page: single experts switched by hand, on top of the slider's subset."""

from dataclasses import replace
from pathlib import Path

import pytest

from emo_viz.ui.ablation import by_hand
from emo_viz.ui.ablation.by_hand import Switch
from model.run.live import Geometry
from model.run.subset import ExpertSubset, full_subset
from tests.pages.ablation_page import given, lines, losses, move, opened, table, words, written
from tests.pages.test_subset_ablation import tokens_of

UNEVEN = Geometry((3, 16), 4)


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets."""


def kept(at, run: int = 0, layer: int = 0) -> list[int]:
    return given(at, "switches", "most")["runs"][run]["layers"][layer]["kept"]


def test_a_switched_expert_is_measured_in_its_own_run_at_every_place(tiny_assets, models):
    document = tokens_of(tiny_assets, "heldout-garden")[0]
    everything = full_subset(models["emo-nano"].config)
    without = tuple(e for e in everything.experts[1] if e != 5)
    subset = replace(everything, experts=(everything.experts[0], without))
    before, at = opened(k="16"), opened(k="16", subset_switched="a1x5")
    cut = losses(models["emo-nano"], document, subset).mean()
    full = losses(models["emo-nano"], document).mean()
    assert table(at)["EMO"][:2] == [f"{full:.3f}", f"{cut:.3f}"]
    assert table(at)["Standard MoE"] == table(before)["Standard MoE"]
    assert "with 1 expert of EMO switched by hand" in lines(at)["document"]
    assert lines(at)["all"] == lines(before)["all"]  # the curves know no switches
    assert written(at, 16)["Standard MoE"] == written(before, 16)["Standard MoE"]
    move(at, 8)
    assert at.query_params["subset_switched"] in ("a1x5", ["a1x5"])
    assert 5 not in kept(at, layer=1)


def test_an_expert_that_was_left_out_is_taken_in_again():
    at = opened(k="8", subset_switched="b0x0")
    absent = next(e for e in range(15) if e not in kept(at, run=1))
    after = opened(k="8", subset_switched=f"b0o{absent}")
    assert absent in kept(after, run=1)
    assert len(kept(after, run=1)) == 8
    assert table(after)["EMO"] == table(opened(k="8"))["EMO"]


def test_a_layer_never_falls_below_what_its_tokens_use():
    usual = opened(k="4", subset_switched="a1o0")  # opens the grid
    some = kept(usual, layer=0)
    at = opened(k="4", subset_switched=f"a0x{some[0]}")
    assert kept(at) == some
    assert f"Layer 0 of EMO keeps as many experts as each token uses: {some[0]} stays" in words(at)
    assert table(at)["EMO"] == table(opened(k="4"))["EMO"]


def test_what_cannot_be_switched_is_named_and_the_rest_is_switched():
    at = opened(k="16", subset_switched="a1x5.a7x1.a1x15.a1o5.hello.a01x2")
    named = "switches by hand a7x1 and a1x15 and a1o5 and 2 more:"  # 15 is the shared expert
    assert named in words(at)
    assert 5 not in kept(at, layer=1) and len(kept(at, layer=1)) == 14
    assert at.query_params["subset_switched"] in ("a1x5", ["a1x5"])


def test_layers_of_different_sizes_keep_what_each_needs():
    whole = full_subset(UNEVEN)
    asked = [Switch(0, 0, 1, False), *(Switch(0, 1, e, False) for e in range(13))]
    subset, refused = by_hand.applied(whole, asked, UNEVEN)
    assert subset.experts == ((0, 1, 2), (12, 13, 14, 15))
    assert refused == [asked[0], asked[-1]]
    few = ExpertSubset(((0, 1, 2), (1, 2, 3, 4)), "", (), 4)
    on = [Switch(0, 1, 9, True), Switch(0, 1, 1, False)]
    assert by_hand.applied(few, on[::-1], UNEVEN)[0].experts[1] == (2, 3, 4, 9)
    assert by_hand.applied(few, [], UNEVEN) == (few, [])
