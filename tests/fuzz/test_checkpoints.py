"""Damaged checkpoints and subsets: read, or refused in one sentence; nothing else is touched."""

from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given

from emo_viz.__main__ import main
from model.files import weights_digest
from model.run.loading import load_model, load_tokenizer
from tests.fuzz.playground import Playground, fuzz, playground

FILES = ("config.json", "config.json", "model.safetensors", "tokenizer.json", "training.json")
SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@fuzz(45)
@given(data=st.data())
def test_a_damaged_checkpoint_loads_or_says_why(checkpoint: Path, data: st.DataObject):
    with playground() as place:
        folder = place.copy(checkpoint)
        place.damage(data, folder / data.draw(st.sampled_from(FILES)))
        place.read(lambda: load_model(folder))
        place.read(lambda: load_tokenizer(folder))


@fuzz(25)
@given(data=st.data())
def test_a_damaged_index_stays_in_its_folder(sharded: Path, data: st.DataObject):
    with playground() as place:
        folder = place.copy(sharded)
        place.damage(data, folder / data.draw(st.sampled_from([INDEX, INDEX, SHARD])))
        place.read(lambda: load_model(folder))
        place.read(lambda: weights_digest(folder))


@fuzz(35)
@given(data=st.data())
def test_a_damaged_subset_cuts_or_says_why(checkpoint: Path, subset: Path, data: st.DataObject):
    with playground() as place:
        file = place.copy(subset)
        place.damage(data, file)
        assert cut(place, checkpoint, file) in (0, 2)


@fuzz(25)
@given(data=st.data())
def test_a_damaged_checkpoint_is_cut_or_says_why(
    checkpoint: Path, subset: Path, data: st.DataObject
):
    cut_damaged(checkpoint, subset, data)


@fuzz(20)
@given(data=st.data())
def test_a_damaged_checkpoint_of_several_files_is_cut_or_says_why(
    sharded: Path, sharded_subset: Path, data: st.DataObject
):
    cut_damaged(sharded, sharded_subset, data)


def cut_damaged(whole: Path, subset: Path, data: st.DataObject) -> None:
    with playground() as place:
        folder = place.copy(whole)
        names = sorted(path.name for path in folder.iterdir())
        place.damage(data, folder / data.draw(st.sampled_from(names)))
        if cut(place, folder, subset) == 0:
            place.out.joinpath("cut").rename(place.given / "cut")
            place.read(lambda: load_model(place.given / "cut"))


def cut(place: Playground, folder: Path, subset: Path) -> int:
    options = ("--model", folder, "--subset", subset, "--out", place.out / "cut")
    return place.run(main, "cut", *options)


def test_whole_checkpoints_are_cut(
    checkpoint: Path, subset: Path, sharded: Path, sharded_subset: Path
):
    """Or all of the above would say nothing."""
    for folder, chosen in ((checkpoint, subset), (sharded, sharded_subset)):
        with playground() as place:
            assert cut(place, folder, chosen) == 0
            assert load_model(place.out / "cut").config.num_experts == 5
