"""What the fuzz tests damage: small whole inputs, made once, most of them from `tiny_assets`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

DOMAINS = ("tea", "sea")
WORDS = ("ribbon", "walnut", "orchard", "river", "thunder", "window", "pepper", "marble", "anchor")


@pytest.fixture(scope="session")
def checkpoint(tiny_assets: Path, tmp_path_factory) -> Path:
    """One checkpoint in a single file."""
    folder = tmp_path_factory.mktemp("fuzz-checkpoint") / "whole"
    shutil.copytree(tiny_assets / "checkpoints" / "emo-nano", folder)
    return folder


@pytest.fixture(scope="session")
def sharded(checkpoint: Path, tmp_path_factory) -> Path:
    """The same checkpoint in two files and an index."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("fuzz-sharded") / "sharded"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    home = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        home |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": home}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def few_documents(tiny_assets: Path, tmp_path_factory) -> Path:
    """Four short documents as Parquet."""
    path = tmp_path_factory.mktemp("fuzz-documents") / "documents.parquet"
    documents = pd.read_parquet(tiny_assets / "documents" / "documents.parquet").head(4)
    documents.assign(text=documents["text"].str.slice(0, 60)).to_parquet(path, index=False)
    return path


@pytest.fixture(scope="session")
def subset(checkpoint: Path, few_documents: Path) -> Path:
    """Five of the sixteen experts of each layer of the checkpoint."""
    return _choose(checkpoint, few_documents)


@pytest.fixture(scope="session")
def sharded_subset(sharded: Path, few_documents: Path) -> Path:
    """The same experts; a subset says by the digest of its files which checkpoint it is of."""
    return _choose(sharded, few_documents)


def _choose(checkpoint: Path, documents: Path) -> Path:
    from emo_viz.__main__ import main

    path = checkpoint.parent / "subset.json"
    options = ["--model", checkpoint, "--documents", documents, "--keep", 5, "--out", path]
    result = CliRunner().invoke(main, ["subset", *map(str, options)])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def own_texts(tmp_path_factory) -> Path:
    """Twelve texts of one's own as JSON Lines, and the same as Parquet beside them."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("fuzz-texts") / "own.jsonl"
    rows = [
        {"text": _text(rng), "domain": DOMAINS[i % 2], "id": f"doc{i}", "parent": f"p{i}"}
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows).to_parquet(path.with_suffix(".parquet"), index=False)
    return path


def _text(rng: np.random.Generator) -> str:
    lines = [" ".join(rng.choice(WORDS, 12)).capitalize() + "." for _ in range(8)]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def corpus(own_texts: Path, tmp_path_factory) -> Path:
    """A corpus of these texts."""
    from model.data.__main__ import main

    folder = tmp_path_factory.mktemp("fuzz-corpus") / "corpus"
    arguments = ["build", "--documents", str(own_texts), "--out", str(folder)]
    options = ["--vocab-size", "300", "--heldout-fraction", "0.3"]
    result = CliRunner().invoke(main, [*arguments, *options])
    assert result.exit_code == 0, result.output
    return folder
