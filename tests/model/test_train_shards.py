"""An index of shards can name its own parts and files, and nothing else."""

import os
import pickle
import shutil

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader, load, save

from model.train.checkpoint import Damaged
from model.train.shards import ShardReader, read_shards

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def shards(tmp_path):
    """What torch writes of tensors and plain values, by one process."""
    folder = tmp_path / "step-1"
    state = {"weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4).bfloat16()}}
    save(
        state | {"groups": [{"lr": 0.5, "betas": (0.9, 0.95), "fused": True}]}, checkpoint_id=folder
    )
    return folder


def empty():
    weights = {"a": torch.zeros(2, 3), "b": torch.zeros(4).bfloat16()}
    return {"weights": weights, "groups": [{"lr": 0.0, "betas": (0, 0), "fused": False}]}


def test_shards_are_read_as_torch_reads_them(shards):
    ours, theirs = empty(), empty()
    read_shards(ours, shards)
    load(theirs, checkpoint_id=shards)
    assert ours["groups"] == theirs["groups"] == [{"lr": 0.5, "betas": (0.9, 0.95), "fused": True}]
    assert torch.equal(ours["weights"]["a"], theirs["weights"]["a"])
    assert torch.equal(ours["weights"]["b"], torch.ones(4).bfloat16())
    mine, torchs = (reader(shards).read_metadata() for reader in (ShardReader, FileSystemReader))
    assert mine.storage_data == torchs.storage_data


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_an_index_runs_nothing(shards, tmp_path):
    (shards / ".metadata").write_bytes(pickle.dumps(Harmful(tmp_path / "made")))
    with pytest.raises(Damaged, match=r"step-1 is damaged: its \.metadata cannot be read"):
        read_shards(empty(), shards)
    assert not (tmp_path / "made").exists()


def test_a_plain_value_runs_nothing(tmp_path):
    save({"groups": Harmful(tmp_path / "made")}, checkpoint_id=tmp_path / "step-1")
    shutil.rmtree(tmp_path / "made", ignore_errors=True)
    with pytest.raises(Damaged, match="step-1 is damaged: its shards cannot be read"):
        read_shards({"groups": 1}, tmp_path / "step-1")
    assert not (tmp_path / "made").exists()


def test_an_index_names_files_of_its_folder_alone(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "other")
    metadata = FileSystemReader(shards).read_metadata()
    for item in metadata.storage_data.values():
        item.relative_path = f"../other/{item.relative_path}"
    (shards / ".metadata").write_bytes(pickle.dumps(metadata))
    load(empty(), checkpoint_id=shards)
    with pytest.raises(Damaged, match=r"step-1 is damaged: its \.metadata cannot be read"):
        read_shards(empty(), shards)
