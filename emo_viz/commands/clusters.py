"""Cluster the tokens of documents by their routing: python -m emo_viz clusters --help"""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import pandas as pd

from model.cli import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emo_viz.analysis.tokens import TokenClusters, TokenTable
    from model.emo.modeling import EmoForCausalLM
    from model.run.inference import Encoded

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--model", "checkpoint", type=FILE, required=True, help="Checkpoint folder.")
@click.option(
    "--documents",
    "documents_path",
    type=FILE,
    required=True,
    help="Parquet file with the columns id, domain and text.",
)
@click.option("--out", type=FILE, required=True, help="The .npz file to write.")
@click.option(
    "--clusters", type=click.IntRange(min=2), default=32, show_default=True, help="How many."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Tokens a document, the opening end-of-text token among them.",
)
@click.option("--seed", type=int, default=0, show_default=True)
def command(
    checkpoint: Path, documents_path: Path, out: Path, clusters: int, max_tokens: int, seed: int
) -> None:
    """Fit token clusters and measure how well they follow domains, token ids and documents."""
    from emo_viz.analysis.origins import documents_digest
    from emo_viz.analysis.pairs import check_routers
    from emo_viz.analysis.tokens import fit_token_clusters, save_token_clusters
    from emo_viz.trace.documents import read_documents
    from emo_viz.trace.recorder import check_max_tokens
    from model.files import check_new_file, weights_digest
    from model.run.inference import encode
    from model.run.loading import load_model, load_tokenizer

    check_new_file(out)
    documents = read_documents(documents_path)
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    check_routers(model.config, checkpoint)
    check_max_tokens(model, max_tokens)
    made = {
        "model": checkpoint.resolve().name,
        "checkpoint_sha256": weights_digest(checkpoint),
        "documents_sha256": documents_digest(documents),
        "max_tokens": max_tokens,
    }
    encoded = [encode(tokenizer, text, max_tokens) for text in documents["text"]]
    _check_enough(clusters, sum(len(each.token_ids) - 1 for each in encoded))
    table = _record(model, encoded, documents)
    say(f"Clustering {len(table.rows):,} tokens{_dropped(encoded)}.")
    fitted = fit_token_clusters(table, made, clusters, seed=seed)
    save_token_clusters(out, fitted)
    say(_summary(out, fitted))


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
    model: "EmoForCausalLM", encoded: "Sequence[Encoded]", documents: pd.DataFrame
) -> "TokenTable":
    """Run every document through the model and keep its tokens' router probabilities (float16)."""
    import numpy as np

    from emo_viz.analysis.tokens import TokenTable, token_rows
    from model.run.inference import record

    rows, ids, texts = [], [], dict[int, str]()
    with click.progressbar(encoded, label="Recording", show_pos=True) as bar:
        for each in bar:
            probs = record(model, each.token_ids).router_probs[:, 1:]  # without the EOS
            rows.append(token_rows(probs).astype(np.float16))
            ids.append(each.token_ids[1:])
            texts.update(zip(each.token_ids[1:].tolist(), each.texts[1:], strict=True))
    return TokenTable(
        rows=np.concatenate(rows),
        token_ids=np.concatenate(ids),
        documents=np.repeat(np.arange(len(ids)), [len(each) for each in ids]),
        ids=documents["id"].tolist(),
        domains=documents["domain"].tolist(),
        texts=texts,
    )


def _summary(out: Path, fitted: "TokenClusters") -> str:
    lines = [
        f"{out}: {len(fitted.centroids)} clusters of {fitted.tokens:,} tokens in "
        f"{fitted.documents:,} documents, {len(fitted.pca.components)} components, "
        f"{out.stat().st_size / 1e3:.0f} kB."
    ]
    for name, agreement in fitted.agreements.items():
        nmi = agreement.nmi
        lines.append(
            f"NMI with {name}: {nmi.mean:.4f} [{nmi.low:.4f}, {nmi.high:.4f}], "
            f"by chance {agreement.chance:.4f}"
        )
    return "\n".join(lines)
