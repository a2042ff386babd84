"""A subset that the page shows of any family can be cut, or the page says why not."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from emo_viz.analysis.curves import read_curves
from model.run.live import open_live
from tests.pages.ablation_page import given, words
from tests.pages.opened import follow_link, run
from tests.pages.test_other_families import ABLATION, add, ids_of, texts, write_documents
from tests.uneven import emo_viz


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents, and no model yet."""
    folder = tmp_path / "assets"
    write_documents(folder / "documents")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    return folder


GROUPED = {"n_routed_experts": 16, "num_hidden_layers": 2}  # in 4 groups; one layer has a router
CUT_BUTTON = "Make the cut checkpoint of mine, about"


def of_each_group(experts: list[int]) -> list[int]:
    return np.bincount(np.array(experts) // 4, minlength=4).tolist()


@pytest.mark.parametrize(
    "method", ["router_probability", "greedy", "other_domain", "random", "importance"]
)
def test_what_is_kept_of_a_model_with_groups_can_be_cut(
    assets: Path, everything_open: None, method: str
) -> None:
    add(assets, "deepseek_v3", **GROUPED)
    at = follow_link(ABLATION, k="8", subset_method=method)
    at.session_state["subset_by_hand"] = True
    (shown,) = given(run(at), "most", "switches")["runs"]
    assert [of_each_group(layer["kept"]) for layer in shown["layers"]] == [[2] * 4]
    assert [b.label for b in at.button if b.label.startswith(CUT_BUTTON)]


def test_curves_of_a_model_with_groups_are_of_what_can_be_cut(assets: Path) -> None:
    add(assets, "deepseek_v3", **GROUPED)
    folder, out = assets / "documents", assets / "curves.parquet"
    given = ("--documents", folder / "documents.parquet", "--out", out, "--keep", "8,10")
    calibration = ("--calibration", folder / "calibration.parquet", "--random-seeds", "1")
    emo_viz("curves", "--models", assets / "checkpoints" / "mine", *given, *calibration)
    greedy = read_curves(out).info["greedy"]["mine"]["letters"]
    assert of_each_group(greedy["8"][0]) == [2] * 4
    assert len(greedy["10"][0]) == 10, "no multiple of the groups"
    live = open_live(assets / "checkpoints" / "mine")
    chosen_on, tried = (
        [np.array(ids_of(text)) for text in texts(assets, part, "letters")]
        for part in ("calibration", "documents")
    )
    kept = live.select(chosen_on, 8, "router_probability", groups=4)
    lost = sum(np.nansum(live.losses(ids, kept.experts)) for ids in tried)
    rows = read_curves(out).rows.query("domain == 'letters' and keep_k == 8")
    measured = rows[rows["method"] == "router_probability"]["loss_sum"].sum()
    assert measured == pytest.approx(lost, rel=1e-4)


@pytest.mark.parametrize(
    ("family", "keep", "by_hand", "said"),
    [
        (
            "deepseek_v3",
            "10",
            False,
            "shared among its groups: with the option `--same-size 1[26]`",
        ),
        ("deepseek_v3", "8", True, "shared among its groups: with the option `--same-size 8`"),
        ("olmoe", "6", True, "keeps 5 to 6 experts a layer here, .*`--same-size 6`"),
        ("jetmoe", "6", False, "No checkpoint of mine can be cut so. .*for others that no subset"),
    ],
)
def test_in_place_of_a_cut_that_would_fail_the_page_says_why(
    assets: Path, everything_open: None, family: str, keep: str, by_hand: bool, said: str
) -> None:
    add(assets, family, **(GROUPED if family == "deepseek_v3" else {}))
    at = follow_link(ABLATION, k=keep)
    if by_hand:
        at.session_state["subset_by_hand"] = True
        layer = given(run(at), "most", "switches")["runs"][0]["layers"][0]
        switched = f"a{layer['number']}x{layer['kept'][0]}"
        at = follow_link(ABLATION, k=keep, subset_switched=switched)
    assert not [b.label for b in at.button if b.label.startswith(CUT_BUTTON)]
    (why,) = re.findall(said, words(at).replace("\\", ""))
    filled = re.search(r"same-size \d+", why)
    commands = [code.value for code in at.code if "emo_viz cut" in code.value]
    assert [filled[0] in each for each in commands] == [True] if filled else not commands
