"""How two runs route the same tokens: python -m emo_viz difference --help"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from model.cli import progress_bar, say

if TYPE_CHECKING:
    from emo_viz.runs.difference import Experts, Found

DTYPES = click.Choice(["float32", "bfloat16", "float16"])


@click.command()
@click.option(
    "--a", "first", required=True, help="A trace folder, a checkpoint folder or hub name."
)
@click.option("--b", "second", required=True, help="What stands beside it, of the same kinds.")
@click.option(
    "--documents",
    "documents_path",
    type=click.Path(path_type=Path),
    help="What checkpoints are run over, as for `record` [default: the documents of the trace].",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first documents of these.")
@click.option("--dtype", type=DTYPES, default="float32", show_default=True, help="Of --a.")
@click.option("--dtype-b", type=DTYPES, default="float32", show_default=True, help="Of --b.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, .. or auto.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Tokens a document, the opening token among them; at most what the models can take.",
)
@click.option(
    "--experts",
    type=click.Choice(["auto", "id", "use"]),
    default="auto",
    show_default=True,
    help="How experts of both are told to be the same; auto matches those of two models by use.",
)
@click.option("--tokens", is_flag=True, help="A row for every token instead of every layer.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Table to write, .csv, .parquet or .json [default: print it as CSV].",
)
def command(
    first: str,
    second: str,
    documents_path: Path | None,
    limit: int | None,
    dtype: str,
    dtype_b: str,
    device: str,
    max_tokens: int,
    experts: str,
    tokens: bool,
    out: Path | None,
) -> None:
    """Compare the routing of two runs, layer by layer or token by token.

    Checkpoints are recorded for it. Overlap is that of the chosen experts (Jaccard), chance that of
    the second run's choices shuffled among the tokens; intervals are 95 %, over documents.
    """
    from emo_viz.runs.difference import Source, check_ending, difference
    from emo_viz.runs.record import Options
    from emo_viz.trace.documents import read_documents
    from model.files import check_new_file

    if out is not None:
        check_ending(out)
        check_new_file(out)
    documents = None if documents_path is None else read_documents(documents_path)
    documents = documents if documents is None or limit is None else documents.head(limit)
    options = Options(device=device, max_tokens=max_tokens)
    sides = Source(first, dtype), Source(second, dtype_b)
    with (
        progress_bar("Recording") as bar,
        difference(
            *sides,
            documents,
            options,
            cast("Experts", experts),
            report=lambda name, done, total: bar(done, total),
        ) as found,
    ):
        _give(found, tokens, out)


def _give(found: "Found", tokens: bool, out: Path | None) -> None:
    """Print or write the table; what it is of goes to stderr."""
    from emo_viz.runs.difference import write_table

    tables = found.by_token() if tokens else iter([found.by_layer()])
    if out is not None:
        rows = write_table(tables, out)
        say(f"{click.format_filename(out)}: {rows:,} rows.")
    else:
        with suppress(BrokenPipeError):
            for number, table in enumerate(tables):
                text = table.to_csv(index=False, header=number == 0, float_format="%.6g")
                click.echo(text, nl=False)
    say(_answer(found), err=True)


def _answer(found: "Found") -> str:
    difference = found.difference
    shared = sum(layer.shared.mean for layer in difference.layers) / len(difference.layers)
    how = "matched by use" if found.by_use else "by id"
    said = (
        f"On {difference.tokens:,} tokens of {len(difference.documents):,} documents, "
        f"{found.names[0]} and {found.names[1]} choose {shared:.1%} of the same experts ({how})."
    )
    return " ".join([said.replace("%", " %"), *difference.notes])
