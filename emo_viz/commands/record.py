"""Record what a model does on documents: python -m emo_viz record --help"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from emo_viz.trace.documents import HELP
from emo_viz.trace.schema import Level

if TYPE_CHECKING:
    from emo_viz.trace.reader import Trace


@click.command()
@click.option(
    "--model",
    "checkpoint",
    required=True,
    help="Checkpoint folder of the model to record, or its name on the Hugging Face hub.",
)
@click.option(
    "--documents",
    "documents_path",
    type=click.Path(path_type=Path),
    required=True,
    help=HELP,
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the trace; a trace that is already there is replaced.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, .. or auto.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="What the weights are loaded as.",
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
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Tokens a document, the opening token among them; at most what the model can take.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Record only the first documents.")
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    help="Tokens run at a time [default: a document on a CPU, 8192 elsewhere].",
)
def command(
    checkpoint: str,
    documents_path: Path,
    out: Path,
    device: str,
    dtype: str,
    level: Level,
    max_tokens: int,
    limit: int | None,
    batch_tokens: int | None,
) -> None:
    """Record the routing of a model over documents into a trace folder.

    Stopped at any point and started again with the same options, it goes on where it was.
    """
    from emo_viz.runs.record import Options, record
    from emo_viz.trace.documents import read_documents
    from emo_viz.trace.writer import check_replaceable
    from model.cli import say
    from model.files import check_writable

    check_replaceable(out)
    check_writable(out)
    documents = read_documents(documents_path)
    documents = documents if limit is None else documents.head(limit)
    options = Options(
        device=device, dtype=dtype, level=level, max_tokens=max_tokens, batch_tokens=batch_tokens
    )
    with click.progressbar(length=len(documents), label="Recording", show_pos=True) as bar:
        trace = record(
            checkpoint,
            documents,
            out,
            options,
            report=lambda done, total: bar.update(done - bar.pos),
            tell=lambda sentence: say(sentence, err=True),
        )
    say(_summary(out, trace))


def _summary(out: Path, trace: "Trace") -> str:
    """What was recorded, and of how many texts only the beginning."""
    documents, tokens = trace.manifest.documents, trace.manifest.tokens
    said = f"{out}: {documents:,} document{'s' * (documents != 1)}, {tokens:,} tokens."
    cut = trace.facts[trace.facts["dropped_tokens"] > 0]
    if cut.empty:
        return said
    longer = f"{len(cut):,} longer text{'s' * (len(cut) != 1)}"
    first = cut["n_tokens"].max()
    return f"{said} Of {longer} only the first {first:,} tokens were recorded (--max-tokens)."
