"""Lay out single tokens on flat maps: python -m emo_viz token-map --help"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.commands.clusters import read_documents
from emo_viz.commands.map import check_neighbours, umap_options

if TYPE_CHECKING:
    from emo_viz.analysis.token_map import Sample, TokenMap
    from emo_viz.analysis.tokens import TokenClusters
    from model.inference import Encoded
    from model.modeling import EmoForCausalLM

FILE = click.Path(path_type=Path)
Flatten = Callable[[NDArray[np.floating]], NDArray[np.float32]]


@click.command()
@click.option(
    "--models",
    nargs=2,
    type=FILE,
    required=True,
    help="Checkpoint folders of the EMO and of the standard model.",
)
@click.option(
    "--documents",
    "documents_path",
    type=FILE,
    required=True,
    help="The Parquet file of documents that the token clusters are of.",
)
@click.option(
    "--clusters",
    "clusters_paths",
    nargs=2,
    type=FILE,
    required=True,
    help="What `python -m emo_viz clusters` wrote for the EMO and the standard model.",
)
@click.option("--out", type=FILE, required=True, help="The .npz file to write.")
@click.option(
    "--per-domain",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Tokens of every domain.",
)
@umap_options
def command(
    models: tuple[Path, Path],
    documents_path: Path,
    clusters_paths: tuple[Path, Path],
    out: Path,
    per_domain: int,
    neighbours: int,
    min_dist: float,
    seed: int,
) -> None:
    """Fit a UMAP of the routing of the same sampled tokens in both models."""
    from emo_viz.analysis.projection import umap_map
    from emo_viz.analysis.token_map import save_token_map

    def flatten(rows: NDArray[np.floating]) -> NDArray[np.float32]:
        check_neighbours(neighbours, len(rows), "tokens")
        return umap_map(rows, neighbours, min_dist, seed)

    documents = read_documents(documents_path)
    made = make(models, documents, clusters_paths, flatten, per_domain, seed)
    made.info.update(method="umap", neighbours=neighbours, min_dist=min_dist)
    save_token_map(out, made)
    tokens, size = len(made.sample.documents), out.stat().st_size / 1e3
    of = len(np.unique(made.sample.documents))
    click.echo(f"{out}: {tokens:,} tokens of {of:,} documents, {size:.0f} kB.")


def make(
    models: tuple[Path, Path],
    documents: pd.DataFrame,
    clusters_paths: tuple[Path, Path],
    flatten: Flatten,
    per_domain: int,
    seed: int = 0,
) -> "TokenMap":
    """The map of a sample of the documents' tokens, its places found by `flatten`.

    Raises ValueError if the clusters are not those of these checkpoints and documents.
    """
    from emo_viz.analysis.token_map import MODELS, lay_out, map_key, sample_tokens
    from emo_viz.analysis.tokens import load_token_clusters
    from model.inference import encode
    from model.loading import load_model, load_tokenizer

    clusters = {}
    for name, checkpoint, path in zip(MODELS, models, clusters_paths, strict=True):
        clusters[name] = load_token_clusters(path)
        _check(clusters[name], path, checkpoint, documents)
    tokenizer, max_tokens = load_tokenizer(models[0]), clusters["emo"].info["max_tokens"]
    encoded = [encode(tokenizer, text, max_tokens) for text in documents["text"]]
    sample = sample_tokens(
        documents["domain"].tolist(),
        [each.token_ids[1:] for each in encoded],
        [each.texts[1:] for each in encoded],
        per_domain,
        seed,
    )
    rows = {
        name: _record(load_model(checkpoint), encoded, sample)
        for name, checkpoint in zip(MODELS, models, strict=True)
    }
    key = map_key(documents["id"].tolist(), documents["text"].tolist(), clusters)
    return lay_out(sample, rows, clusters, flatten, key, {"per_domain": per_domain, "seed": seed})


def _check(
    clusters: "TokenClusters", path: Path, checkpoint: Path, documents: pd.DataFrame
) -> None:
    from emo_viz.analysis.projection import content_key
    from model.files import weights_digest

    if clusters.info["checkpoint_sha256"] != weights_digest(checkpoint):
        raise ValueError(
            f"{path} is of another checkpoint than {checkpoint}; run `python -m emo_viz clusters` "
            "again."
        )
    if clusters.info["ids"] != content_key(documents["id"]):
        raise ValueError(
            f"{path} is of other documents; run `python -m emo_viz clusters` with these."
        )


def _record(
    model: "EmoForCausalLM", encoded: list["Encoded"], sample: "Sample"
) -> NDArray[np.float16]:
    """Router probabilities [N, L * R] of the sampled tokens, each read in its document."""
    from emo_viz.analysis.tokens import token_rows
    from model.inference import record

    rows = []
    with click.progressbar(np.unique(sample.documents), label="Recording", show_pos=True) as bar:
        for document in bar:
            probs = record(model, encoded[document].token_ids).router_probs
            own = sample.positions[sample.documents == document]
            rows.append(token_rows(probs[:, own]).astype(np.float16))
    return np.concatenate(rows)
