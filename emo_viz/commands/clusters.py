"""Cluster the tokens of documents by their routing: python -m emo_viz clusters --help"""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import pandas as pd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from emo_viz.analysis.tokens import TokenClusters, TokenTable
    from model.modeling import EmoForCausalLM

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
    from emo_viz.analysis.tokens import fit_token_clusters, save_token_clusters
    from model.files import weights_digest
    from model.loading import load_model, load_tokenizer

    documents = read_documents(documents_path)
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    table = _record(model, tokenizer, documents, max_tokens)
    click.echo(f"Clustering {len(table.rows):,} tokens.")
    made = {
        "model": checkpoint.resolve().name,
        "checkpoint_sha256": weights_digest(checkpoint),
        "max_tokens": max_tokens,
    }
    fitted = fit_token_clusters(table, made, clusters, seed=seed)
    save_token_clusters(out, fitted)
    click.echo(_summary(out, fitted))


def read_documents(path: Path) -> pd.DataFrame:
    """The documents of a Parquet file. Raises ValueError if it is not one of documents."""
    from emo_viz.trace.recorder import check_documents

    try:
        documents = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a Parquet file of documents (id, domain, text)."
        ) from error
    check_documents(documents)
    return documents


def _record(
    model: "EmoForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    documents: pd.DataFrame,
    max_tokens: int,
) -> "TokenTable":
    """Run every document through the model and keep its tokens' router probabilities (float16)."""
    import numpy as np

    from emo_viz.analysis.tokens import TokenTable, token_rows
    from model.inference import encode, record

    rows, ids, texts = [], [], dict[int, str]()
    with click.progressbar(documents["text"], label="Recording", show_pos=True) as bar:
        for text in bar:
            encoded = encode(tokenizer, text, max_tokens)
            probs = record(model, encoded.token_ids).router_probs[:, 1:]  # without the EOS
            rows.append(token_rows(probs).astype(np.float16))
            ids.append(encoded.token_ids[1:])
            texts.update(zip(encoded.token_ids[1:].tolist(), encoded.texts[1:], strict=True))
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
