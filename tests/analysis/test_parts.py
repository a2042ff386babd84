"""Finished parts of a measurement: kept whole, named by what they depend on, cleared at the end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emo_viz.analysis.ablation import Cut, Part, Task, Texts
from emo_viz.analysis.curves import FULL
from emo_viz.analysis.parts import Parts

EMO, STANDARD = "a" * 64, "b" * 64
PART = Part("sea", [(FULL, 16, 0)], ["one"], [2], [[1.5]], [[0, 1]], {})


def task(word: int = 7) -> Task:
    texts = Texts("sea", ("one",), (np.array([0, word, 8]),))
    return Task(texts, texts, None, (Cut(FULL, 16),))


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts.of(tmp_path / "curves.parquet")


def test_a_part_comes_back(parts: Parts):
    assert parts.read(EMO, task()) is None
    parts.write(EMO, task(), PART)
    read = parts.read(EMO, task())
    assert read is not None and read.losses == PART.losses and read.greedy == PART.greedy
    assert [path.suffix for path in parts.folder.iterdir()] == [".json"]


def test_another_model_or_text_has_another_part(parts: Parts):
    parts.write(EMO, task(), PART)
    assert parts.read(STANDARD, task()) is None
    assert parts.read(EMO, task(word=9)) is None


def test_only_the_models_asked_for_are_counted(parts: Parts):
    assert parts.count([EMO]) == 0
    for word in (1, 2):
        parts.write(EMO, task(word), PART)
    parts.write(STANDARD, task(), PART)
    assert (parts.count([EMO]), parts.count([EMO, STANDARD]), parts.count(["c" * 64])) == (2, 3, 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"domain": "sea"}', "\udcff"])
def test_a_damaged_part_is_measured_again(parts: Parts, text: str):
    parts.write(EMO, task(), PART)
    next(parts.folder.iterdir()).write_text(text, errors="surrogateescape")
    assert parts.read(EMO, task()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"domain": "law"},
        {"cuts": [(FULL, 8, 0)]},
        {"documents": ["two"]},
        {"tokens": [4]},
        {"losses": [[float("nan")]]},
        {"losses": [[1.5, 1.5]]},
        {"losses": [["a"]]},
        {"ranking": [[0.5, 1]]},
        {"ranking": [[0, 1], [0]]},
        {"greedy": {"8": []}},
        {"greedy": None},
    ],
)
def test_a_part_with_the_content_of_another_is_measured_again(parts: Parts, changes: dict):
    parts.write(EMO, task(), replace(PART, **changes))
    assert parts.read(EMO, task()) is None


def test_clearing_leaves_no_folder(parts: Parts):
    parts.write(EMO, task(), PART)
    parts.clear()
    parts.clear()
    assert not parts.folder.exists()


def test_clearing_takes_nothing_that_is_not_a_part(parts: Parts):
    parts.write(EMO, task(), PART)
    kept = parts.folder / "notes.txt"
    kept.write_text("mine")
    (parts.folder / "more").mkdir()
    parts.clear()
    assert sorted(path.name for path in parts.folder.iterdir()) == ["more", "notes.txt"]
