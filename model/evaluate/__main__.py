"""Evaluate a checkpoint: python -m model.evaluate --model FOLDER --corpus FOLDER --out FILE

Writes JSON: held-out losses, keep-k curves and modularity with 95 % intervals over documents, for
all documents and for those of which less than 1 % was seen in training, and every document's
losses.
"""

from pathlib import Path

import click
import torch

from model.cli import Command, say
from model.data.heldout import held_out
from model.data.shards import corpus_digest
from model.evaluate.measure import evaluate
from model.files import check_new_file, weights_digest, write_json
from model.run.loading import load_model
from model.train.parallel import own_device

FOLDER = click.Path(path_type=Path)


@click.command(cls=Command)
@click.option("--model", "checkpoint", type=FOLDER, required=True, help="Checkpoint folder.")
@click.option("--corpus", type=FOLDER, required=True, help="The corpus it was trained on.")
@click.option("--out", type=FOLDER, required=True, help="The JSON file to write.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--per-domain",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Documents evaluated, and as many that choose the experts; a packed corpus has its own.",
)
def main(
    checkpoint: Path, corpus: Path, out: Path, device: str, threads: int, per_domain: int
) -> None:
    """Measure a model on held-out documents."""
    check_new_file(out)
    torch.set_num_threads(threads)
    place = own_device(device)
    model = load_model(checkpoint).to(place)
    found = evaluate(model, held_out(corpus, per_domain, per_domain))
    found["model"]["weights_sha256"] = weights_digest(checkpoint)
    write_json(out, found | {"corpus": corpus_digest(corpus)}, indent=None)
    whole = found["summary"]["all"]
    say(
        f"{out}: {whole['full'][0]:.3f} nats a token on {whole['documents']:,} documents, "
        f"{whole['tokens']:,} tokens."
    )


if __name__ == "__main__":
    main()
