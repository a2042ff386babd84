"""`tiny_assets`: a folder laid out as assets/ is, made from two small models with random weights.

24 held-out and 12 calibration documents of 4 domains; 2 layers of 16 experts, top-4 with one shared
expert. The commands that write the real assets write all of it, except the flat maps: they are
PCAs, because compiling UMAP takes longer than all the rest together.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

VOCABULARY = {
    "garden": "soil seeds water roots leaves rain sun bed compost prune",
    "kitchen": "flour butter oven sugar bake whisk salt pan knead dough",
    "harbour": "tide rope anchor crane quay ship mast fog gull buoy",
    "court": "judge clause appeal witness ruling party statute claim oath bench",
}
MODELS = {"emo": "emo-nano", "standard": "std-nano"}
VOCAB_SIZE = 320
WORDS = 45
OPENINGS = ("the", "a", "every", "no", "their")


@pytest.fixture(scope="session", autouse=True)
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """EMO_VIZ_HOME of all tests, so that none sees what the user of this machine has added."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMO_VIZ_HOME", os.fspath(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder; EMO_VIZ_ASSETS points at it until the session ends."""
    folder = tmp_path_factory.mktemp("assets")
    _write_documents(folder / "documents")
    _write_checkpoints(folder)
    _record_traces(folder)
    (folder / "analysis").mkdir()
    _write_maps(folder)
    _measure_curves(folder)
    _cluster_tokens(folder)
    _write_token_map(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
        yield folder


def _sentence(rng: np.random.Generator, domain: str) -> str:
    words = rng.choice(VOCABULARY[domain].split(), WORDS)
    openings = rng.choice(OPENINGS, WORDS)
    return " ".join(f"{opening} {word}" for opening, word in zip(openings, words, strict=True))


def _documents(part: str, count: int, seed: int) -> pd.DataFrame:
    """`count` documents a domain, the domains by turns; one text holds what HTML must escape."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "id": f"{part}-{domain}-{number}",
            "domain": domain,
            "source": f"The {domain} papers",
            "licence": "CC0-1.0",
            "parent": f"{part}-{domain}-volume-{number}",
            "part": 0,
            "text": _sentence(rng, domain),
            "cut_tokens": 0,
        }
        for number in range(count)
        for domain in VOCABULARY
    ]
    rows[0]["text"] = f"<b onclick='alert(1)'>soil & seeds</b> {rows[0]['text']}"
    return pd.DataFrame(rows)


def _write_documents(folder: Path) -> None:
    folder.mkdir()
    _documents("heldout", 6, seed=0).to_parquet(folder / "documents.parquet", index=False)
    _documents("calibration", 3, seed=1).to_parquet(folder / "calibration.parquet", index=False)
    (folder / "ATTRIBUTION.md").write_text("Written by a test.\n")


def _write_checkpoints(folder: Path) -> None:
    import torch

    from model.data.tokenizer import train_on
    from model.emo.config import EmoConfig
    from model.emo.modeling import EmoForCausalLM
    from model.run.loading import export_model

    documents = pd.read_parquet(folder / "documents" / "documents.parquet")
    tokenizer = train_on(documents["text"], VOCAB_SIZE)
    (folder / "checkpoints").mkdir()
    for seed, (objective, name) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        config = EmoConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_experts=16,
            num_experts_per_tok=4,
            num_shared_experts=1,
            max_position_embeddings=512,
            pool_size_min=4,
            pool_size_max=16,
            objective=objective,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # Wide enough that routing differs from token to token in an untrained model.
            initializer_range=0.3,
        )
        checkpoint = folder / "checkpoints" / name
        export_model(EmoForCausalLM(config), tokenizer, checkpoint)
        training = {"name": "tiny", "objective": objective, "tokens": 0}
        (checkpoint / "training.json").write_text(json.dumps(training))


def _emo_viz(*arguments: str | Path) -> None:
    """Run a sub-command of `python -m emo_viz` in this process."""
    from emo_viz.__main__ import main

    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def _record_traces(folder: Path) -> None:
    documents = folder / "documents" / "documents.parquet"
    for name in MODELS.values():
        checkpoint, out = folder / "checkpoints" / name, folder / "traces" / name
        _emo_viz("record", "--model", checkpoint, "--documents", documents, "--out", out)


def _write_maps(folder: Path) -> None:
    from emo_viz.analysis.projection import Maps, content_key, pca_map, procrustes, save_maps
    from emo_viz.analysis.vectors import flatten_usage
    from emo_viz.trace import Trace

    traces = {name: Trace.open(folder / "traces" / name) for name in MODELS.values()}
    places = {}
    for name, trace in traces.items():
        layers = [None, *range(trace.manifest.model.num_layers)]
        flat = [pca_map(flatten_usage(trace.usage, layer)) for layer in layers]
        first = flat[0] if not places else next(iter(places.values()))[0]
        places[name] = np.stack([procrustes(points, first) for points in flat])
    info = {"method": "pca", "neighbours": 0, "min_dist": 0.0, "seed": 0}
    info["models"] = list(MODELS.values())
    keys = {name: content_key(one.documents["id"], one.usage) for name, one in traces.items()}
    save_maps(folder / "analysis" / "maps.npz", Maps(keys, places, info))


def _measure_curves(folder: Path) -> None:
    documents, checkpoints = folder / "documents", folder / "checkpoints"
    _emo_viz(
        "curves",
        "--models",
        *(checkpoints / name for name in MODELS.values()),
        "--documents",
        documents / "documents.parquet",
        "--calibration",
        documents / "calibration.parquet",
        "--out",
        folder / "analysis" / "curves.parquet",
        "--keep",
        "4,8,16",
        "--random-seeds",
        "2",
    )


def _cluster_tokens(folder: Path) -> None:
    documents = folder / "documents" / "documents.parquet"
    for name in MODELS.values():
        checkpoint, out = (
            folder / "checkpoints" / name,
            folder / "analysis" / f"clusters-{name}.npz",
        )
        source = ("--model", checkpoint, "--documents", documents)
        _emo_viz("clusters", *source, "--out", out, "--clusters", "6")


def _write_token_map(folder: Path) -> None:
    from emo_viz.analysis.projection import pca_map
    from emo_viz.analysis.token_map import save_token_map
    from emo_viz.runs.token_map import make

    emo, standard = MODELS.values()
    made = make(
        (folder / "checkpoints" / emo, folder / "checkpoints" / standard),
        pd.read_parquet(folder / "documents" / "documents.parquet"),
        tuple(folder / "analysis" / f"clusters-{name}.npz" for name in (emo, standard)),
        pca_map,
        per_domain=30,
    )
    save_token_map(folder / "analysis" / "token_map.npz", made)
