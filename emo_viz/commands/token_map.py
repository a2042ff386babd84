"""Lay out single tokens on flat maps: python -m emo_viz token-map --help"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.commands.map import choose_neighbours, umap_options
from emo_viz.trace.documents import read_documents
from model.cli import say

if TYPE_CHECKING:
    from emo_viz.analysis.origins import Origins
    from emo_viz.analysis.token_map import Sample, TokenMap
    from emo_viz.analysis.tokens import TokenClusters
    from model.emo.modeling import EmoForCausalLM
    from model.run.inference import Encoded

FILE = click.Path(path_type=Path)
MAX_TOKENS = 256  # of a document, where the clusters do not say
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
    neighbours: int | None,
    min_dist: float,
    seed: int,
) -> None:
    """Fit a UMAP of the routing of the same sampled tokens in both models."""
    from emo_viz.analysis.projection import umap_map
    from emo_viz.analysis.token_map import save_token_map
    from model.files import check_new_file

    used: list[int] = []

    def flatten(rows: NDArray[np.floating]) -> NDArray[np.float32]:
        used.append(choose_neighbours(neighbours, len(rows), "tokens"))
        return umap_map(rows, used[-1], min_dist, seed)

    check_new_file(out)
    documents = read_documents(documents_path)
    made = make(models, documents, clusters_paths, flatten, per_domain, seed)
    made.info.update(method="umap", neighbours=used[-1], min_dist=min_dist)
    save_token_map(out, made)
    tokens, size = len(made.sample.documents), out.stat().st_size / 1e3
    of = len(np.unique(made.sample.documents))
    say(f"{out}: {tokens:,} tokens of {of:,} documents, {size:.0f} kB.")


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
    from emo_viz.analysis.origins import Origins, documents_digest
    from emo_viz.analysis.pairs import open_pair
    from emo_viz.analysis.token_map import MODELS, lay_out, map_key, sample_tokens
    from emo_viz.analysis.tokens import load_token_clusters
    from model.run.inference import encode
    from model.run.loading import load_model

    pair = open_pair(models)
    if [each.objective for each in pair.checkpoints] != list(MODELS):
        raise ValueError("--models takes the EMO model first and then the standard model.")
    clusters = {
        name: load_token_clusters(path) for name, path in zip(MODELS, clusters_paths, strict=True)
    }
    present = Origins(pair.models, documents_digest(documents))
    for name, path in zip(MODELS, clusters_paths, strict=True):
        _check(name, clusters[name], path, present, documents)
    max_tokens = _max_tokens(clusters)
    encoded = [encode(pair.tokenizer, text, max_tokens) for text in documents["text"]]
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
    info = {
        "origins": present.to_dict(),
        "per_domain": per_domain,
        "seed": seed,
        "max_tokens": max_tokens,
    }
    return lay_out(sample, rows, clusters, flatten, key, info)


def _max_tokens(clusters: Mapping[str, "TokenClusters"]) -> int:
    """How many tokens a document the clusters of both models were made from."""
    found = {int(each.info.get("max_tokens", MAX_TOKENS)) for each in clusters.values()}
    if len(found) > 1:
        raise ValueError(
            f"The clusters were made from {min(found)} and {max(found)} tokens a document; run "
            "`python -m emo_viz clusters` for both with the same --max-tokens."
        )
    return found.pop()


def _check(
    role: str, clusters: "TokenClusters", path: Path, present: "Origins", documents: pd.DataFrame
) -> None:
    """Raises ValueError unless the clusters are of this model and these documents."""
    from emo_viz.analysis.origins import stale
    from emo_viz.analysis.projection import content_key

    mend = f"run `python -m emo_viz clusters --out {path}` again"
    if found := stale(f"The clusters in {path.name}", clusters.origins(role), present, mend):
        raise ValueError(found[0])
    if clusters.info["ids"] != content_key(documents["id"]):
        raise ValueError(f"The clusters in {path.name} were made with other documents; {mend}.")


def _record(
    model: "EmoForCausalLM", encoded: list["Encoded"], sample: "Sample"
) -> NDArray[np.float16]:
    """Router probabilities [N, L * R] of the sampled tokens, each read in its document."""
    from emo_viz.analysis.tokens import token_rows
    from model.run.inference import record

    rows = []
    with click.progressbar(np.unique(sample.documents), label="Recording", show_pos=True) as bar:
        for document in bar:
            probs = record(model, encoded[document].token_ids).router_probs
            own = sample.positions[sample.documents == document]
            rows.append(token_rows(probs[:, own]).astype(np.float16))
    return np.concatenate(rows)
