"""Train modules apart and put them together: python -m model.federated --from CHECKPOINT ...

Every client fine-tunes its domain's module of one parent and shows no document to anyone. Goes on
by itself after a kill or Ctrl-C.
"""

import os
from pathlib import Path
from typing import Any

import click
import torch

from model.cli import INTERRUPTED, Several, SeveralCommand, say
from model.federated.compose import Overlap
from model.federated.run import Federation, federate
from model.finetune import gains
from model.finetune.parts import What
from model.finetune.run import EXPORT, RESULT, Pace, Request
from model.train import parallel
from model.train.options import MAX_SEED


@click.command(cls=SeveralCommand)
@click.option(
    "--from", "parent", type=click.Path(path_type=Path), required=True, help="A checkpoint."
)
@click.option("--corpus", type=click.Path(path_type=Path), default=Path("data/corpus"))
@click.option(
    "--domains", cls=Several, required=True, help="Two or more in a row, one for each client."
)
@click.option(
    "--module", "keep_k", type=int, default=16, show_default=True, help="Experts of a client."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder.")
@click.option(
    "--overlap",
    type=click.Choice(["average", "disjoint"]),
    default="average",
    show_default=True,
    help="Experts of several clients are averaged by usage; or no two clients have one.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=300, show_default=True, help="Of each client."
)
@click.option("--rows", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--context", type=click.IntRange(min=2), default=None)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=None)
@click.option("--pools/--no-pools", default=False, help="Keep EMO's document pools in training.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True)
@click.option("--calibration", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--measured", type=click.IntRange(min=2), default=48, show_default=True)
@click.option("--others", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads.")
def main(
    parent: Path,
    corpus: Path,
    domains: tuple[str, ...],
    keep_k: int,
    out: Path,
    overlap: Overlap,
    measured: int,
    device: str,
    threads: int | None,
    **options: Any,
) -> None:
    """Train modules apart, put their experts together, hold that against joint training."""
    parallel.check_alone("A federation")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    request = Request(parent, corpus, domains, What("module", keep_k), own=measured, **options)
    try:
        result = federate(Federation(request, overlap), out, Pace(parallel.own_device(device)))
    except KeyboardInterrupt:
        say(f"Stopped; the same command goes on from what {out} holds.", err=True)
        raise SystemExit(INTERRUPTED) from None
    _tell(result, out)


def _tell(result: dict[str, Any], out: Path) -> None:
    together = result["overlaps"]
    say(
        f"{len(result['domains'])} clients, {together['experts']} routed experts between them, "
        f"{together['share']:.0%} of several. Gain over the parent in nats a token:"
    )
    rows = {**result["by_domain"], "mean of domains": result["summary"]}
    for domain, found in rows.items():
        say(f"  {domain}")
        for name, gain in found["gain"].items():
            say(f"    {name:16} {gains.in_words(gain)}")
    say(f"{out / RESULT}; the composition is {out / EXPORT}.")


if __name__ == "__main__":
    main()
