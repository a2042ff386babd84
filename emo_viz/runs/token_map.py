"""The map of a sample of tokens: the same ones in every run, recorded, laid out and written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis import projection
from emo_viz.analysis.checkpoints import Checkpoint, open_runs, side_by_side
from emo_viz.analysis.origins import Origins, documents_digest, stale
from emo_viz.analysis.projection import content_key
from emo_viz.analysis.token_map import (
    Sample,
    TokenMap,
    lay_out,
    map_key,
    sample_tokens,
    save_token_map,
)
from emo_viz.analysis.tokens import TokenClusters, load_token_clusters
from emo_viz.runs.maps import choose_neighbours
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.trace.documents import read_documents
from model.files import check_new_file

if TYPE_CHECKING:
    from model.run.inference import Encoded
    from model.run.live import Live

MAX_TOKENS = 256  # of a document, where the clusters do not say
Flatten = Callable[[NDArray[np.floating]], NDArray[np.float32]]


def map_tokens(
    models: Sequence[Path],
    documents_path: Path,
    clusters_paths: Sequence[Path],
    out: Path,
    per_domain: int,
    neighbours: int | None,
    min_dist: float,
    seed: int = 0,
    report: Report = unreported,
    ids: Sequence[str] = (),
) -> TokenMap:
    """Write the UMAP of the same sampled tokens in one model, or in two, to the .npz file `out`.

    clusters_paths: of the models, in their order. per_domain: tokens of every domain. neighbours,
    min_dist: UMAP's. report: of the documents recorded. ids: of the runs, if not their folders'.
    Raises ValueError as `make` does, and for too few tokens.
    """
    used: list[int] = []

    def flatten(rows: NDArray[np.floating]) -> NDArray[np.float32]:
        used.append(choose_neighbours(neighbours, len(rows), "tokens"))
        return projection.umap_map(rows, used[-1], min_dist, seed)

    check_new_file(out)
    documents = read_documents(documents_path)
    made = make(models, documents, clusters_paths, flatten, per_domain, seed, report, ids)
    made.info.update(method="umap", neighbours=used[-1], min_dist=min_dist)
    save_token_map(out, made)
    return made


def make(
    models: Sequence[Path],
    documents: pd.DataFrame,
    clusters_paths: Sequence[Path],
    flatten: Flatten,
    per_domain: int,
    seed: int = 0,
    report: Report = unreported,
    ids: Sequence[str] = (),
) -> TokenMap:
    """The map of a sample of the documents' tokens, its places found by `flatten`.

    Raises ValueError if the clusters are not those of these checkpoints and documents, or if the
    models do not share their tokens.
    """
    opened = open_runs(models, ids)
    if said := side_by_side(opened).why_not("tokens"):
        raise ValueError(f"{said} Map each of them alone.")
    clusters = _clusters(opened, clusters_paths, documents)
    max_tokens = _max_tokens(clusters)
    encoded = [opened[0].encode(text, max_tokens) for text in documents["text"]]
    sample = sample_tokens(
        documents["domain"].tolist(),
        [each.token_ids[1:] for each in encoded],
        [each.texts[1:] for each in encoded],
        per_domain,
        seed,
    )
    routing, numbers = _record_each(opened, encoded, sample, report)
    ids, texts = documents["id"].tolist(), documents["text"].tolist()
    keys = {run: map_key(ids, texts, own) for run, own in clusters.items()}
    origins = Origins({one.run: one.weights for one in opened}, documents_digest(documents))
    info = {
        "origins": origins.to_dict(),
        "per_domain": per_domain,
        "seed": seed,
        "max_tokens": max_tokens,
    }
    return lay_out(sample, routing, numbers, clusters, flatten, keys, info)


def _clusters(
    opened: Sequence[Checkpoint], paths: Sequence[Path], documents: pd.DataFrame
) -> dict[str, TokenClusters]:
    """The stored clusters by run id. Raises ValueError unless they are of these."""
    if len(paths) != len(opened):
        raise ValueError(
            f"--models names {len(opened)} and --clusters {len(paths)}; name the clusters of each "
            "model, in the same order."
        )
    found = {}
    for one, path in zip(opened, paths, strict=True):
        found[one.run] = load_token_clusters(path)
        _check(one, found[one.run], path, documents)
    return found


def _max_tokens(clusters: Mapping[str, TokenClusters]) -> int:
    """How many tokens a document the clusters were made from."""
    found = {int(each.info.get("max_tokens", MAX_TOKENS)) for each in clusters.values()}
    if len(found) > 1:
        raise ValueError(
            f"The clusters were made from {min(found)} and {max(found)} tokens a document; run "
            "`python -m emo_viz clusters` for both with the same --max-tokens."
        )
    return found.pop()


def _check(one: Checkpoint, clusters: TokenClusters, path: Path, documents: pd.DataFrame) -> None:
    """Raises ValueError unless the clusters are of this model and these documents."""
    mend = f"run `python -m emo_viz clusters --out {path}` again"
    # The file is of one model, whatever its run was called when it was made.
    made_of = list(clusters.origins.models.values())
    made = Origins({one.run: made_of[-1]} if made_of else {}, clusters.origins.documents)
    present = Origins({one.run: one.weights}, documents_digest(documents))
    if found := stale(f"The clusters in {path.name}", made, present, mend):
        raise ValueError(found[0])
    if clusters.info["ids"] != content_key(documents["id"]):
        raise ValueError(f"The clusters in {path.name} were made with other documents; {mend}.")


def _record_each(
    opened: Sequence[Checkpoint], encoded: "list[Encoded]", sample: Sample, report: Report
) -> tuple[dict[str, NDArray[np.float16]], dict[str, Sequence[int]]]:
    """By run, router probabilities of the sampled tokens and the model's own numbers of its layers;
    one model at a time is in memory."""
    from model.run.live import open_live

    step = Counter(report, len(opened) * len(np.unique(sample.documents)))
    routing, numbers = dict[str, NDArray[np.float16]](), dict[str, Sequence[int]]()
    for one in opened:
        live = open_live(one.folder)
        routing[one.run] = _record(live, encoded, sample, step)
        numbers[one.run] = live.own_layers
    return routing, numbers


def _record(
    live: "Live", encoded: "list[Encoded]", sample: Sample, step: Counter
) -> NDArray[np.float16]:
    """Router probabilities [N, L, R] of the sampled tokens, each read in its document."""
    found = []
    for document in np.unique(sample.documents):
        probs = live.record(encoded[document].token_ids).router_probs
        own = sample.positions[sample.documents == document]
        found.append(probs[:, own].swapaxes(0, 1).astype(np.float16))
        step()
    return np.concatenate(found)
