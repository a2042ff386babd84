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
from model.finetune.options import of_a_finetuning
from model.finetune.parts import What
from model.finetune.run import EXPORT, RESULT, Pace, Request
from model.train import parallel


@click.command(cls=SeveralCommand)
@click.option(
    "--from", "parent", type=click.Path(path_type=Path), required=True, help="A checkpoint."
)
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
@of_a_finetuning
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
