"""Runs and comparisons: ids, colours, labels, and which two compare in what."""

from pathlib import Path

import pytest

from emo_viz.analysis.runs import (
    Facts,
    Run,
    compare,
    default_of,
    label_of,
    run_id,
    run_ids,
    runs_in,
)

EMO, STANDARD = Run("emo-nano", "EMO"), Run("std-nano", "Standard MoE")
MINE, YOURS = Run("mine", "mine"), Run("yours", "yours")


@pytest.mark.parametrize(
    ("runs", "slots"),
    [
        ([EMO, STANDARD], [0, 1]),
        ([STANDARD, EMO], [1, 0]),
        ([EMO], [0]),
        ([STANDARD], [1]),
        ([MINE], [0]),
        ([MINE, YOURS], [0, 1]),
        ([EMO, MINE], [0, 1]),
        ([MINE, EMO], [1, 0]),
        ([STANDARD, MINE], [1, 0]),
        ([MINE, STANDARD], [0, 1]),
    ],
)
def test_the_bundled_runs_keep_their_colours_and_no_two_share_one(runs, slots):
    assert [run.slot for run in compare(runs)] == slots


def test_a_comparison_is_of_one_or_two_different_runs():
    for runs in ([], [EMO, STANDARD, MINE]):
        with pytest.raises(ValueError, match=f"one or two runs, not of {len(runs)}"):
            compare(runs)
    with pytest.raises(ValueError, match="mine is named twice; name two different runs"):
        compare([MINE, MINE])
    alone = compare([MINE])
    assert (alone.first, alone.second, alone.names) == (MINE, None, "mine")
    assert compare([EMO, MINE])["mine"].label == "mine"


def test_two_runs_of_one_label_are_told_apart():
    both = compare([Run("a", "model"), Run("b", "model")])
    assert list(both.labels.values()) == ["model (a)", "model (b)"]


def with_facts(run: Run, **facts: object) -> Run:
    return Run(run.id, run.label, facts=Facts(**facts))


@pytest.mark.parametrize(
    ("aspect", "one", "other", "sentence"),
    [
        ("documents", {"documents": "a"}, {"documents": "b"}, "on different documents; record"),
        ("tokens", {"vocabulary": "a"}, {"vocabulary": "b"}, "have different tokenizers"),
        (
            "layers",
            {"routed": (8, 8)},
            {"routed": (8,)},
            "EMO has 2 layers with experts and mine 1",
        ),
        (
            "experts",
            {"routed": (8, 8)},
            {"routed": (8,)},
            "EMO has 2 layers with experts and mine 1",
        ),
        ("experts", {"routed": (8, 8)}, {"routed": (4, 4)}, "8 routed experts a layer and mine 4"),
        ("experts", {"routed": (8, 8)}, {"routed": (8, 4)}, "in layer 1 and mine 4"),
    ],
)
def test_what_does_not_compare_is_one_sentence(aspect, one, other, sentence):
    both = compare([with_facts(EMO, **one), with_facts(MINE, **other)])
    said = both.why_not(aspect)
    assert sentence in said and said.endswith(".") and said.count(". ") == 0
    assert compare([with_facts(EMO, **one)]).why_not(aspect) == ""
    assert compare([with_facts(EMO, **one), MINE]).why_not(aspect) == ""
    assert compare([with_facts(EMO, **one), with_facts(MINE, **one)]).why_not(aspect) == ""


def test_ids_are_safe_names_and_differ(tmp_path: Path):
    assert run_id(tmp_path / "a model:<v1>") == "a-model-v1"
    assert run_id(Path("/")) == "run"
    assert run_id(tmp_path / "\udcff.x") == "x"
    folders = [tmp_path / "one" / "model", tmp_path / "two" / "model", tmp_path / "other"]
    assert run_ids(folders) == ["one-model", "two-model", "other"]
    with pytest.raises(ValueError, match="are both called one-model; name different folders"):
        run_ids([folders[0], folders[0]])


def test_runs_are_found_by_their_folders(tmp_path: Path):
    for place in ("checkpoints/std-nano", "checkpoints/zeta", "traces/alpha", "checkpoints/.tmp"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "clusters-alpha.npz").touch()
    assert [run.id for run in runs_in(tmp_path)] == ["std-nano", "alpha", "zeta"]
    alpha = runs_in(tmp_path)[1]
    assert alpha.checkpoint is None and alpha.trace and alpha.clusters and alpha.digest is None
    assert default_of(runs_in(tmp_path)).ids == ("std-nano",)
    (tmp_path / "checkpoints" / "std-nano").rmdir()
    assert default_of(runs_in(tmp_path)).ids == ("alpha", "zeta")
    with pytest.raises(ValueError, match="no checkpoint and no trace"):
        default_of(runs_in(tmp_path / "none"))


def test_labels_of_the_bundled_runs():
    assert [label_of(name) for name in ("emo-nano", "std-nano", "x")] == [
        "EMO",
        "Standard MoE",
        "x",
    ]
