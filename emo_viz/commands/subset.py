"""Choose a domain's experts: python -m emo_viz subset --help"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import pandas as pd

from emo_viz.analysis.ablation import MAX_TOKENS
from emo_viz.analysis.curves import GREEDY, ROUTER_PROBABILITY
from model.files import check_new_file, read_text, write_text

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset, Method

FILE = click.Path(path_type=Path)
METHODS = (ROUTER_PROBABILITY, GREEDY)


@click.command()
@click.option("--model", "checkpoint", type=FILE, required=True, help="Checkpoint folder.")
@click.option(
    "--documents",
    "documents_path",
    type=FILE,
    required=True,
    help="Calibration documents: Parquet with the columns id, domain and text.",
)
@click.option("--domain", help="Only the documents of this domain.")
@click.option(
    "--keep",
    "keep_k",
    type=int,
    required=True,
    help="Experts kept a layer, the shared one counted.",
)
@click.option("--method", type=click.Choice(METHODS), default=METHODS[0], show_default=True)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=2),
    default=MAX_TOKENS,
    show_default=True,
    help="Tokens a document, the opening end-of-text token among them.",
)
@click.option("--out", type=FILE, required=True, help="The JSON file to write.")
def command(
    checkpoint: Path,
    documents_path: Path,
    domain: str | None,
    keep_k: int,
    method: str,
    max_tokens: int,
    out: Path,
) -> None:
    """Choose the experts that a domain's documents prefer, and write their ids to a file."""
    from emo_viz.trace.documents import read_documents, texts_digest
    from emo_viz.trace.recorder import check_max_tokens
    from model.files import weights_digest
    from model.run.inference import encode
    from model.run.loading import load_model, load_tokenizer
    from model.run.selection import select_experts
    from model.run.subset import check_keep_k

    _check_out(out)
    documents = _of_domain(read_documents(documents_path), domain, documents_path)
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    check_max_tokens(model, max_tokens)
    check_keep_k(model.config, keep_k)
    texts = [encode(tokenizer, text, max_tokens).token_ids for text in documents["text"]]
    subset = select_experts(model, texts, keep_k, cast("Method", method), documents["id"].tolist())
    subset = replace(
        subset,
        model=checkpoint.resolve().name,
        weights_sha256=weights_digest(checkpoint),
        domain=domain,
        documents_sha256=texts_digest(documents["text"]),
    )
    write_text(out, subset.to_json() + "\n")
    click.echo(
        f"{click.format_filename(out)}: {_kept(subset)} experts in each of "
        f"{len(subset.experts)} layers, chosen on {len(texts)} documents."
    )


def _check_out(out: Path) -> None:
    """Raises ValueError unless a subset can be written there; only another subset is replaced."""
    from model.run.subset import ExpertSubset

    check_new_file(out)
    if out.exists():
        try:
            ExpertSubset.from_json(read_text(out))
        except ValueError as error:
            raise ValueError(
                f"{out} exists and is not a subset; name another file for it."
            ) from error


def _kept(subset: "ExpertSubset") -> str:
    counts = {len(layer) for layer in subset.experts}
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)}"


def _of_domain(documents: pd.DataFrame, domain: str | None, path: Path) -> pd.DataFrame:
    chosen = documents if domain is None else documents[documents["domain"] == domain]
    if chosen.empty:
        known = ", ".join(sorted(set(documents["domain"])))
        raise ValueError(f"{path} has no documents of the domain {domain!r}; it has {known}.")
    return chosen
