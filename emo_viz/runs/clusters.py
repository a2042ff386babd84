"""Token clusters of one run: its routing of documents recorded, clustered, measured, written."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emo_viz.analysis.checkpoints import check_routers
from emo_viz.analysis.origins import documents_digest
from emo_viz.analysis.runs import run_id
from emo_viz.analysis.tokens import (
    TokenClusters,
    TokenTable,
    fit_token_clusters,
    save_token_clusters,
    token_rows,
)
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.trace.documents import read_documents
from emo_viz.trace.recorder import check_max_tokens
from model.files import check_new_file, weights_digest

if TYPE_CHECKING:
    from model.run.inference import Encoded
    from model.run.live import Live


def cluster_tokens(
    checkpoint: Path,
    documents_path: Path,
    out: Path,
    clusters: int,
    max_tokens: int,
    seed: int = 0,
    report: Report = unreported,
    tell: Callable[[str], None] = lambda sentence: None,
    run: str = "",
) -> TokenClusters:
    """Write the token clusters of a checkpoint to the .npz file `out`.

    run: the id of the run, if not that of the checkpoint's folder. max_tokens: of each document,
    its EOS counted. report: of the documents recorded; tell: gets a sentence before the
    clustering. Raises ValueError for what cannot be read, clustered or written.
    """
    from model.run.live import open_live

    check_new_file(out)
    documents = read_documents(documents_path)
    live = open_live(checkpoint)
    _check_model(live, checkpoint, max_tokens)
    made = {
        "model": checkpoint.resolve().name,
        "checkpoint_sha256": weights_digest(checkpoint),
        "documents_sha256": documents_digest(documents),
        "max_tokens": max_tokens,
    }
    encoded = [live.encode(text, max_tokens) for text in documents["text"]]
    _check_enough(clusters, sum(len(each.token_ids) - 1 for each in encoded))
    table = _record(live, encoded, documents, report)
    tell(f"Clustering {len(table.rows):,} tokens{_dropped(encoded)}.")
    fitted = fit_token_clusters(table, run or run_id(checkpoint), made, clusters, seed=seed)
    save_token_clusters(out, fitted)
    return fitted


def _check_model(live: "Live", checkpoint: Path, max_tokens: int) -> None:
    if live.is_emo:
        check_routers(live.geometry, checkpoint)
    if not live.knows_probabilities:
        raise ValueError(
            f"{checkpoint} has no token clusters, because how its routers choose was not "
            "recognised; its routing can be recorded."
        )
    check_max_tokens(live.model, max_tokens)


def _check_enough(clusters: int, tokens: int) -> None:
    if clusters > tokens:
        raise ValueError(
            f"{clusters} clusters need as many tokens and the documents have {tokens:,}; choose "
            "fewer with --clusters."
        )


def _dropped(encoded: "Sequence[Encoded]") -> str:
    """How much of the documents is not among the tokens."""
    dropped = [each.dropped for each in encoded if each.dropped]
    return f" ({sum(dropped):,} more of {len(dropped):,} longer documents left out)" * bool(dropped)


def _record(
    live: "Live", encoded: "Sequence[Encoded]", documents: pd.DataFrame, report: Report
) -> TokenTable:
    """Run every document through the model and keep its tokens' router probabilities (float16)."""
    rows, ids, texts = [], [], dict[int, str]()
    step = Counter(report, len(encoded))
    for each in encoded:
        probs = live.record(each.token_ids).router_probs[:, 1:]  # without the opening token
        rows.append(token_rows(probs).astype(np.float16))
        ids.append(each.token_ids[1:])
        texts.update(zip(each.token_ids[1:].tolist(), each.texts[1:], strict=True))
        step()
    return TokenTable(
        rows=np.concatenate(rows),
        token_ids=np.concatenate(ids),
        documents=np.repeat(np.arange(len(ids)), [len(each) for each in ids]),
        ids=documents["id"].tolist(),
        domains=documents["domain"].tolist(),
        texts=texts,
    )
