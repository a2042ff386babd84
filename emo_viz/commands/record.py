"""Record what a model does on documents: python -m emo_viz record --help"""

from pathlib import Path

import click

from emo_viz.trace.schema import Level


@click.command()
@click.option(
    "--model",
    "checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint folder of the model to record.",
)
@click.option(
    "--documents",
    "documents_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Parquet file with the columns id, domain and text.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the trace; a trace that is already there is replaced.",
)
@click.option(
    "--level",
    type=click.Choice(["documents", "tokens"]),
    default="documents",
    show_default=True,
    help="Keep averages a document, or every token as well.",
)
@click.option(
    "--max-tokens",
    type=int,
    default=256,
    show_default=True,
    help="Tokens a document, the opening end-of-text token among them.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Record only the first documents.")
def command(
    checkpoint: Path,
    documents_path: Path,
    out: Path,
    level: Level,
    max_tokens: int,
    limit: int | None,
) -> None:
    """Record the routing of a model over documents into a trace folder."""
    from emo_viz.trace.documents import read_documents
    from emo_viz.trace.recorder import record_trace
    from emo_viz.trace.writer import check_replaceable
    from model.files import check_writable, weights_digest

    # What is quickly tried comes before a model is loaded, which can take minutes.
    check_replaceable(out)
    check_writable(out)
    documents = read_documents(documents_path)
    documents = documents if limit is None else documents.head(limit)
    from model.run.loading import load_model, load_tokenizer

    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    with click.progressbar(length=len(documents), label="Recording", show_pos=True) as bar:
        trace = record_trace(
            model,
            tokenizer,
            documents,
            out,
            name=checkpoint.resolve().name,
            checkpoint_sha256=weights_digest(checkpoint),
            level=level,
            max_tokens=max_tokens,
            progress=lambda done, total: bar.update(done - bar.pos),
        )
    manifest = trace.manifest
    place = click.format_filename(out)
    click.echo(f"{place}: {manifest.documents:,} documents, {manifest.tokens:,} tokens.")
