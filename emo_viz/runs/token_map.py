"""The map of a sample of tokens: the same ones in both models, recorded, laid out and written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis import projection
from emo_viz.analysis.origins import Origins, documents_digest, stale
from emo_viz.analysis.pairs import open_pair
from emo_viz.analysis.projection import content_key
from emo_viz.analysis.token_map import (
    MODELS,
    Sample,
    TokenMap,
    lay_out,
    map_key,
    sample_tokens,
    save_token_map,
)
from emo_viz.analysis.tokens import TokenClusters, load_token_clusters, token_rows
from emo_viz.runs.maps import choose_neighbours
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.trace.documents import read_documents
from model.files import check_new_file

if TYPE_CHECKING:
    from model.emo.modeling import EmoForCausalLM
    from model.run.inference import Encoded

MAX_TOKENS = 256  # of a document, where the clusters do not say
Flatten = Callable[[NDArray[np.floating]], NDArray[np.float32]]


def map_tokens(
    models: tuple[Path, Path],
    documents_path: Path,
    clusters_paths: tuple[Path, Path],
    out: Path,
    per_domain: int,
    neighbours: int | None,
    min_dist: float,
    seed: int = 0,
    report: Report = unreported,
) -> TokenMap:
    """Write the UMAP of the same sampled tokens in both models, EMO first, to the .npz file `out`.

    per_domain: tokens of every domain. neighbours, min_dist: UMAP's. report: of the documents
    recorded. Raises ValueError as `make` does, and for too few tokens.
    """
    used: list[int] = []

    def flatten(rows: NDArray[np.floating]) -> NDArray[np.float32]:
        used.append(choose_neighbours(neighbours, len(rows), "tokens"))
        return projection.umap_map(rows, used[-1], min_dist, seed)

    check_new_file(out)
    documents = read_documents(documents_path)
    made = make(models, documents, clusters_paths, flatten, per_domain, seed, report)
    made.info.update(method="umap", neighbours=used[-1], min_dist=min_dist)
    save_token_map(out, made)
    return made


def make(
    models: tuple[Path, Path],
    documents: pd.DataFrame,
    clusters_paths: tuple[Path, Path],
    flatten: Flatten,
    per_domain: int,
    seed: int = 0,
    report: Report = unreported,
) -> TokenMap:
    """The map of a sample of the documents' tokens, its places found by `flatten`.

    Raises ValueError if the clusters are not those of these checkpoints and documents.
    """
    from model.run.inference import encode

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
    rows = _record_both(models, encoded, sample, report)
    key = map_key(documents["id"].tolist(), documents["text"].tolist(), clusters)
    info = {
        "origins": present.to_dict(),
        "per_domain": per_domain,
        "seed": seed,
        "max_tokens": max_tokens,
    }
    return lay_out(sample, rows, clusters, flatten, key, info)


def _max_tokens(clusters: Mapping[str, TokenClusters]) -> int:
    """How many tokens a document the clusters of both models were made from."""
    found = {int(each.info.get("max_tokens", MAX_TOKENS)) for each in clusters.values()}
    if len(found) > 1:
        raise ValueError(
            f"The clusters were made from {min(found)} and {max(found)} tokens a document; run "
            "`python -m emo_viz clusters` for both with the same --max-tokens."
        )
    return found.pop()


def _check(
    role: str, clusters: TokenClusters, path: Path, present: Origins, documents: pd.DataFrame
) -> None:
    """Raises ValueError unless the clusters are of this model and these documents."""
    mend = f"run `python -m emo_viz clusters --out {path}` again"
    if found := stale(f"The clusters in {path.name}", clusters.origins(role), present, mend):
        raise ValueError(found[0])
    if clusters.info["ids"] != content_key(documents["id"]):
        raise ValueError(f"The clusters in {path.name} were made with other documents; {mend}.")


def _record_both(
    models: tuple[Path, Path], encoded: "list[Encoded]", sample: Sample, report: Report
) -> dict[str, NDArray[np.float16]]:
    """Router probabilities of the sampled tokens by model; one model at a time is in memory."""
    from model.run.loading import load_model

    step = Counter(report, 2 * len(np.unique(sample.documents)))
    return {
        name: _record(load_model(checkpoint), encoded, sample, step)
        for name, checkpoint in zip(MODELS, models, strict=True)
    }


def _record(
    model: "EmoForCausalLM", encoded: "list[Encoded]", sample: Sample, step: Counter
) -> NDArray[np.float16]:
    """Router probabilities [N, L * R] of the sampled tokens, each read in its document."""
    from model.run.inference import record

    rows = []
    for document in np.unique(sample.documents):
        probs = record(model, encoded[document].token_ids).router_probs
        own = sample.positions[sample.documents == document]
        rows.append(token_rows(probs[:, own]).astype(np.float16))
        step()
    return np.concatenate(rows)
