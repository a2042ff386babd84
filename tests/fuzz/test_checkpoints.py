"""Damaged checkpoints and subsets: read, or refused in one sentence; nothing else is touched."""

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from emo_viz.__main__ import main
from model.files import weights_digest
from model.loading import load_model, load_tokenizer
from tests.fuzz.mutations import json_bytes
from tests.fuzz.playground import fuzz, playground

FILES = ("config.json", "config.json", "model.safetensors", "tokenizer.json", "training.json")
SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
SUBSET = {
    "experts": [[0, 1, 2, 3, 15], [4, 5, 6, 7, 15]],
    "method": "router_probability",
    "calibration": ["doc-1", "doc-2"],
    "budget": 5,
}


@fuzz(60)
@given(data=st.data())
def test_a_damaged_checkpoint_loads_or_says_why(checkpoint: Path, data: st.DataObject):
    with playground() as place:
        folder = place.copy(checkpoint)
        place.damage(data, folder / data.draw(st.sampled_from(FILES)))
        place.read(lambda: load_model(folder))
        place.read(lambda: load_tokenizer(folder))


@fuzz(30)
@given(data=st.data())
def test_a_damaged_index_stays_in_its_folder(sharded: Path, data: st.DataObject):
    with playground() as place:
        folder = place.copy(sharded)
        place.damage(data, folder / data.draw(st.sampled_from([INDEX, INDEX, SHARD])))
        place.read(lambda: load_model(folder))
        place.read(lambda: weights_digest(folder))


@fuzz(40)
@given(subset=json_bytes(SUBSET))
def test_a_damaged_subset_cuts_or_says_why(checkpoint: Path, subset: bytes):
    with playground() as place:
        file = place.given / "subset.json"
        file.write_bytes(subset)
        assert cut(place, place.copy(checkpoint), file) in (0, 2)


@fuzz(60)
@given(data=st.data())
def test_a_damaged_checkpoint_is_cut_or_says_why(
    checkpoint: Path, sharded: Path, data: st.DataObject
):
    with playground() as place:
        source = data.draw(st.sampled_from([checkpoint, sharded]).map(lambda p: p.name))
        folder = place.copy(checkpoint if source == checkpoint.name else sharded)
        names = sorted(path.name for path in folder.iterdir())
        place.damage(data, folder / data.draw(st.sampled_from(names)))
        file = place.given / "subset.json"
        file.write_text(json.dumps(SUBSET))
        if cut(place, folder, file) == 0:
            place.out.joinpath("cut").rename(place.given / "cut")
            place.read(lambda: load_model(place.given / "cut"))


def cut(place, folder: Path, subset: Path) -> int:
    options = ("--model", folder, "--subset", subset, "--out", place.out / "cut")
    return place.run(main, "cut", *options)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", INDEX])
def test_the_whole_checkpoints_are_cut(checkpoint: Path, sharded: Path, name: str):
    """Or all of the above would say nothing."""
    with playground() as place:
        folder = place.copy(sharded if name == INDEX else checkpoint)
        file = place.given / "subset.json"
        file.write_text(json.dumps(SUBSET))
        assert cut(place, folder, file) == 0
        assert load_model(place.out / "cut").config.num_experts == 5
