"""Opening a corpus that is missing, foreign or damaged says so and how to mend it."""

import json

import numpy as np
import pandas as pd
import pytest

from model.data.shards import TokenShard

TOKENS = np.array([0, 5, 6, 0, 7, 0, 8, 9, 10], dtype="<u2")


@pytest.fixture
def corpus(tmp_path):
    manifest = {"format": "emo-viz-corpus", "format_version": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    TOKENS.tofile(tmp_path / "train.bin")
    np.save(tmp_path / "train.offsets.npy", np.array([0, 3, 5, 9]))
    index = pd.DataFrame({"id": ["a", "b", "c"], "domain": ["x", "y", "x"]})
    index.to_parquet(tmp_path / "train.index.parquet")
    return tmp_path


def test_documents_lie_between_their_offsets(corpus):
    shard = TokenShard.open(corpus, "train")
    assert len(shard) == 3
    assert [shard.document(n).tolist() for n in range(3)] == [[0, 5, 6], [0, 7], [0, 8, 9, 10]]
    assert shard.tokens.dtype == np.uint16
    assert shard.index["id"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("missing", [".", "manifest.json"])
def test_a_corpus_that_is_not_there_or_unfinished(corpus, missing):
    folder = corpus / "nowhere" if missing == "." else corpus
    (corpus / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"does not exist or was not finished; run python -m"):
        TokenShard.open(folder, "train")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"format": "emo-viz-corpus", "format_version": 3}', "version 3, not emo-viz-corpus"),
        ('{"format": "other"}', "is other version None"),
        ("{", "manifest.json is damaged"),
        ("[1]", "manifest.json is damaged"),
    ],
)
def test_a_foreign_or_damaged_manifest(corpus, manifest, message):
    (corpus / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=message):
        TokenShard.open(corpus, "train")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train.bin", cut_short),
        ("train.bin", lambda path: path.write_bytes(path.read_bytes() + b"\0\0")),
        ("train.bin", lambda path: path.write_bytes(b"")),
        ("train.bin", lambda path: path.unlink()),
        ("train.offsets.npy", cut_short),
        ("train.offsets.npy", lambda path: np.save(path, np.array([0, 5, 3, 9]))),
        ("train.offsets.npy", lambda path: np.save(path, np.array([[0, 3, 5, 9]]))),
        ("train.offsets.npy", lambda path: np.save(path, np.array([], dtype=np.int64))),
        ("train.index.parquet", cut_short),
        ("train.index.parquet", lambda path: pd.DataFrame({"id": ["a"]}).to_parquet(path)),
    ],
)
def test_a_damaged_shard(corpus, name, damage):
    damage(corpus / name)
    with pytest.raises(ValueError, match=r"train\.\* are incomplete or damaged; run python"):
        TokenShard.open(corpus, "train")


def test_fewer_tokens_than_the_manifest_says(corpus):
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["splits"] = {"train": {"tokens": len(TOKENS) + 1}}
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"train\.\* are incomplete or damaged; run python"):
        TokenShard.open(corpus, "train")


def test_an_unknown_split(corpus):
    with pytest.raises(ValueError, match="no split 'test'; choose train or heldout"):
        TokenShard.open(corpus, "test")
