"""Read the routing that another tool recorded: python -m emo_viz import --help"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from emo_viz.trace import Trace

FILE = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
KINDS = "responses, array, emo, olmoe, torch, imatrix, csv, flame, megatron or moe-atlas"


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--out",
    type=FILE,
    required=True,
    help="Folder of the trace; a trace that is already there is replaced.",
)
@click.option("--kind", help=f"Of file, where its content does not tell: {KINDS}.")
@click.option("--name", help="Of the model, in place of what the file says.")
@click.option("--layers", "num_layers", type=COUNT, help="Layers of the model with experts.")
@click.option("--top-k", type=COUNT, help="Experts a token.")
@click.option("--experts", "num_experts", type=COUNT, help="Experts of a layer.")
@click.option(
    "--text",
    "texts_path",
    type=FILE,
    help="Texts of the documents: JSON from ids to texts or a list, JSON lines, or one plain text.",
)
def command(
    file: Path,
    out: Path,
    kind: str | None,
    name: str | None,
    num_layers: int | None,
    top_k: int | None,
    num_experts: int | None,
    texts_path: Path | None,
) -> None:
    """Turn a routing FILE (or folder) of another tool into a trace that the app can open.

    Read are answers of vLLM, SGLang and verifiers, arrays, EMO's and OLMoE's folders, counts of
    SGLang, REAP, llama.cpp and CSV, and the traces of FLAME, Megatron and moe-atlas.
    """
    from emo_viz.runs.import_trace import Known, import_trace, read_texts
    from model.cli import say

    known = Known(
        kind=kind,
        name=name,
        num_layers=num_layers,
        top_k=top_k,
        num_experts=num_experts,
        texts=None if texts_path is None else read_texts(texts_path),
    )
    with click.progressbar(length=0, label="Importing", show_pos=True) as bar:

        def report(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        trace = import_trace(file, out, known, report)
    for note in trace.manifest.notes:
        say(note)
    say(_summary(out, trace))


def _summary(out: Path, trace: "Trace") -> str:
    """What is in the trace, and what is not."""
    from emo_viz.trace.absent import PARTS

    manifest, model = trace.manifest, trace.manifest.model
    size = f"{model.num_layers} layers of {model.num_experts} experts"
    held = f"{manifest.documents:,} documents, {manifest.tokens:,} tokens"
    lacks = ", ".join(part for part in PARTS if not trace.has(part))
    return f"{click.format_filename(out)}: {held}, {size}. Not there: {lacks}."
