"""Assets of other runs than the tiny ones, made by the real commands: one run alone, or layers with
different numbers of experts."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from emo_viz.__main__ import main
from emo_viz.analysis import projection
from emo_viz.analysis.token_map import save_token_map
from emo_viz.runs.token_map import make
from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.files import weights_digest
from model.run.loading import export_model, load_model, load_tokenizer
from model.run.subset import ExpertSubset

RUNS = ("emo-nano", "std-nano")
# Of 16 experts in each of two layers; the last is the shared one.
TWELVE_AND_SIXTEEN = {
    "emo-nano": ((0, 1, 2, 4, 5, 7, 8, 9, 11, 13, 14, 15), tuple(range(16))),
    "std-nano": ((0, 2, 3, 5, 6, 7, 8, 10, 11, 12, 14, 15), tuple(range(16))),
}


def emo_viz(*arguments: str | Path) -> str:
    """Run a sub-command of `python -m emo_viz` in this process; returns what it says."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def cut_pair(assets: Path, folder: Path, kept: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Both models of `assets`, cut to the kept ids of each layer, into folder/checkpoints."""
    (folder / "checkpoints").mkdir(parents=True)
    for name, experts in kept.items():
        parent, out = (where / "checkpoints" / name for where in (assets, folder))
        most = max(map(len, experts))
        layers = tuple(map(tuple, experts))
        subset = ExpertSubset(layers, "by hand", (), most, name, weights_digest(parent))
        (folder / f"{name}.json").write_text(subset.to_json())
        emo_viz("cut", "--model", parent, "--subset", folder / f"{name}.json", "--out", out)


def new_pair(assets: Path, folder: Path, experts: Sequence[int]) -> None:
    """Two untrained models like those of `assets` but for the experts of each layer.

    No cut leaves a layer fewer experts than a token uses.
    """
    for seed, name in enumerate(RUNS):
        like, out = (where / "checkpoints" / name for where in (assets, folder))
        fields = load_model(like).config.to_dict() | {"num_experts_per_layer": list(experts)}
        torch.manual_seed(seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        export_model(EmoForCausalLM(EmoConfig(**fields)), load_tokenizer(like), out)
        shutil.copy(like / "training.json", out)


def measure(assets: Path, folder: Path, runs: Sequence[str] = RUNS) -> None:
    """All that the pages show of the runs in folder/checkpoints; the maps are PCAs."""
    (folder / "documents").symlink_to(assets / "documents")
    (folder / "analysis").mkdir()
    documents, analysis = folder / "documents" / "documents.parquet", folder / "analysis"
    models = [folder / "checkpoints" / name for name in runs]
    traces = [folder / "traces" / name for name in runs]
    clusters = [analysis / f"clusters-{name}.npz" for name in runs]
    for model, trace, file in zip(models, traces, clusters, strict=True):
        source = ("--model", model, "--documents", documents)
        emo_viz("record", *source, "--out", trace)
        emo_viz("clusters", *source, "--out", file, "--clusters", "6")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "umap_map", pca_map)
        emo_viz("map", "--traces", *traces, "--out", analysis / "maps.npz")
    read = pd.read_parquet(documents)
    token_map = make(models, read, clusters, projection.pca_map, 30)
    save_token_map(analysis / "token_map.npz", token_map)
    source = ("--documents", documents, "--calibration", documents.with_name("calibration.parquet"))
    out = ("--out", analysis / "curves.parquet", "--random-seeds", "2")
    emo_viz("curves", "--models", *models, *source, *out)


@contextmanager
def shown(folder: Path) -> Iterator[Path]:
    """The app's pages read `folder` in this block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
        yield folder


def pca_map(
    rows: NDArray[np.floating], neighbours: int, min_dist: float, seed: int
) -> NDArray[np.float32]:
    """In place of UMAP, which takes longer to compile than all the rest together."""
    return projection.pca_map(rows)
