"""Damaged files of experts, of their effects and of the first screen: used, or refused in words."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from emo_viz.analysis import expert_effects, expert_tokens, flow, glance
from tests.fuzz.playground import check_sentence, fuzz, playground
from tests.uneven import emo_viz

EFFECTS, TOKENS, GLANCE = "expert-effects-emo-nano.npz", "experts-emo-nano.npz", "glance.npz"


@pytest.fixture(scope="session")
def files(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each, as the commands write them."""
    folder = tmp_path_factory.mktemp("fuzz-experts")
    documents, models = tiny_assets / "documents", tiny_assets / "checkpoints"
    source = ("--documents", documents / "documents.parquet")
    one = ("--model", models / "emo-nano", *source)
    emo_viz("ablate-experts", *one, "--per-domain", "1", "--out", folder / EFFECTS)
    emo_viz("experts", *one, "--out", folder / TOKENS)
    both = ("--models", models / "emo-nano", models / "std-nano", *source)
    calibration = ("--calibration", documents / "calibration.parquet")
    emo_viz("glance", *both, *calibration, "--out", folder / GLANCE)
    return folder


def use_effects(path: Path) -> None:
    """All that the pages ask of it, of every expert."""
    found = expert_effects.load(path)
    for number, routed in zip(found.numbers, found.routed, strict=True):
        for expert in range(routed):
            if found.change(number, expert) is not None:
                found.overall(number, expert)
                found.by_domain(number, expert)
            assert np.isfinite(found.mean(number, expert)) or found.change(number, expert) is None


def use_tokens(path: Path) -> None:
    found = expert_tokens.load(path)
    for number in found.numbers:
        layer = found.place(number)
        assert layer is not None
        flow.expected_pairs(found.pairs[layer])
        flow.partners(found.pairs[layer], 0)
        assert all(
            found.texts.get(int(token), "") is not None for token in found.enriched[layer, 0]
        )
    assert found.counts.shape == found.pairs.shape[:2]


def use_glance(path: Path) -> None:
    found = glance.load_glances(path)
    for one in found.runs.values():
        assert one.kept.shape == one.kept_share.shape
        assert (one.places < max(one.routed)).all() and np.isfinite(one.kept_share).all()
        assert one.change is None or np.isfinite(one.change).all()


USE: dict[str, Callable[[Path], None]] = {
    EFFECTS: use_effects,
    TOKENS: use_tokens,
    GLANCE: use_glance,
}


@fuzz(60)
@given(data=st.data())
def test_a_damaged_file_is_used_or_says_why(files: Path, data: st.DataObject):
    with playground() as place:
        folder = place.copy(files)
        name = data.draw(st.sampled_from(sorted(USE)))
        place.damage(data, folder / name)
        place.read(lambda: USE[name](folder / name))


@pytest.mark.parametrize("name", sorted(USE))
def test_what_nobody_damaged_is_used(name: str, files: Path):
    USE[name](files / name)


def changed(path: Path, into: Path, info: dict[str, Any], arrays: dict[str, Any]) -> Path:
    """The file with other entries in its description, and arrays changed by functions."""
    with np.load(io.BytesIO(path.read_bytes())) as file:
        found = {name: file[name] for name in file.files}
    found["info"] = np.array(json.dumps(json.loads(str(found["info"])) | info))
    found |= {name: change(found[name]) for name, change in arrays.items()}
    with (into / path.name).open("wb") as out:
        np.savez(out, **found)
    return into / path.name


def nans(values: np.ndarray) -> np.ndarray:
    return np.full(values.shape, np.nan, np.float32)


def infinite(values: np.ndarray) -> np.ndarray:
    return np.full(values.shape, np.inf, np.float32)


def negative(values: np.ndarray) -> np.ndarray:
    return -2 - np.abs(values)


def shorter(values: np.ndarray) -> np.ndarray:
    return values[:-1]


FOREIGN = {"format_version": 99}, {}
DAMAGES = [
    *((name, *FOREIGN, "99") for name in sorted(USE)),
    *((name, {"format": "another"}, {}, "another") for name in sorted(USE)),
    (EFFECTS, {}, {"full": nans}, "damaged"),
    (EFFECTS, {}, {"changes": infinite}, "damaged"),
    (EFFECTS, {}, {"changes": shorter}, "damaged"),
    (EFFECTS, {}, {"tokens": np.zeros_like}, "damaged"),
    (EFFECTS, {"routed": [15]}, {}, "damaged"),
    (EFFECTS, {"numbers": [0, 0]}, {}, "damaged"),
    (EFFECTS, {"domains": []}, {}, "damaged"),
    (EFFECTS, {"info": {"origins": [1]}}, {}, "damaged"),
    (TOKENS, {}, {"counts": nans}, "damaged"),
    (TOKENS, {}, {"pairs": negative}, "damaged"),
    (TOKENS, {}, {"context_rows": negative}, "damaged"),
    (TOKENS, {}, {"context_gates": infinite}, "damaged"),
    (TOKENS, {}, {"context_starts": nans}, "damaged"),
    (TOKENS, {}, {"flow": nans}, "damaged"),
    (TOKENS, {"routed": [15, 14, 15]}, {}, "damaged"),
    (TOKENS, {"tokens": 0}, {}, "damaged"),
    (GLANCE, {}, {"losses_0": nans}, "damaged"),
    (GLANCE, {}, {"weights_0": nans}, "damaged"),
    (GLANCE, {}, {"ranking_1": np.zeros_like}, "damaged"),
    (GLANCE, {}, {"experts_0": negative}, "damaged"),
    (GLANCE, {}, {"experts_1": shorter}, "damaged"),
    (GLANCE, {"runs": ["emo-nano"]}, {}, "damaged"),
]


@pytest.mark.parametrize(("name", "info", "arrays", "word"), DAMAGES)
def test_what_does_not_fit_is_one_sentence(name, info, arrays, word, files, tmp_path):
    path = changed(files / name, tmp_path, info, arrays)
    with pytest.raises(ValueError, match=word) as refused:
        USE[name](path)
    check_sentence(str(refused.value))
    assert name in str(refused.value)


@pytest.mark.parametrize("name", sorted(USE))
@pytest.mark.parametrize("left", [0.0, 0.5, 0.98])
def test_a_file_that_was_cut_off_is_one_sentence(name, left, files, tmp_path):
    whole = (files / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(ValueError, match="made again|cannot be read") as refused:
        USE[name](tmp_path / name)
    check_sentence(str(refused.value))


def test_an_expert_that_was_not_measured_is_not_damage(files, tmp_path):
    def without_one(changes: np.ndarray) -> np.ndarray:
        changes[0, 2] = np.nan
        return changes

    found = expert_effects.load(changed(files / EFFECTS, tmp_path, {}, {"changes": without_one}))
    assert found.change(0, 2) is None and found.change(0, 3) is not None
