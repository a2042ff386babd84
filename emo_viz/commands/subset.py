"""Choose a domain's experts: python -m emo_viz subset --help"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import pandas as pd

from emo_viz.analysis.ablation import MAX_TOKENS
from emo_viz.analysis.curves import GREEDY, ROUTER_PROBABILITY
from emo_viz.commands.clusters import read_documents

if TYPE_CHECKING:
    from model.subset import Method

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
    from emo_viz.trace.recorder import check_max_tokens
    from model.inference import encode
    from model.loading import load_model, load_tokenizer
    from model.subset import check_keep_k, select_experts

    documents = _of_domain(read_documents(documents_path), domain, documents_path)
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    check_max_tokens(model, max_tokens)
    check_keep_k(model.config, keep_k)
    texts = [encode(tokenizer, text, max_tokens).token_ids for text in documents["text"]]
    subset = select_experts(model, texts, keep_k, cast("Method", method), documents["id"].tolist())
    _write(out, subset.to_json())
    click.echo(
        f"{out}: {keep_k} experts in each of {len(subset.experts)} layers, chosen on "
        f"{len(texts)} documents."
    )


def _write(out: Path, text: str) -> None:
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ValueError(f"{out} cannot be written ({error.strerror}); name a file.") from error


def _of_domain(documents: pd.DataFrame, domain: str | None, path: Path) -> pd.DataFrame:
    chosen = documents if domain is None else documents[documents["domain"] == domain]
    if chosen.empty:
        known = ", ".join(sorted(set(documents["domain"])))
        raise ValueError(f"{path} has no documents of the domain {domain!r}; it has {known}.")
    return chosen
