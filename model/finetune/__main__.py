"""Fine-tune a checkpoint: python -m model.finetune --from CHECKPOINT --domain recipes --what all

Continues by itself from the newest checkpoint of the same run, also after a kill or Ctrl-C.
"""

import os
from pathlib import Path
from typing import Any

import click
import torch

from model.cli import INTERRUPTED, Several, SeveralCommand, say
from model.finetune import gains
from model.finetune.options import of_a_finetuning
from model.finetune.parts import FORMS, read_what
from model.finetune.run import EXPORT, RESULT, Pace, Request, work
from model.train import checkpoint, parallel
from model.train.options import AT_LEAST_1


@click.command(cls=SeveralCommand)
@click.option(
    "--from", "parent", type=click.Path(path_type=Path), required=True, help="A checkpoint."
)
@click.option("--domain", "domains", cls=Several, required=True, help="One, or several in a row.")
@click.option("--what", "words", cls=Several, required=True, help=f"What trains: {FORMS}.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@click.option(
    "--full",
    type=click.Path(path_type=Path),
    default=None,
    help="result.json of --what all: says how much of its gain is kept.",
)
@click.option(
    "--steps", type=AT_LEAST_1, default=300, show_default=True, help="Of the fine-tuning."
)
@click.option(
    "--rank", type=click.IntRange(1, 1024), default=4, show_default=True, help="Of a LoRA."
)
@click.option("--shared", is_flag=True, help="A module's shared experts train as well.")
@of_a_finetuning
@click.option("--stop-at", type=AT_LEAST_1, default=None, help="Pause after this step.")
def main(
    parent: Path,
    corpus: Path,
    domains: tuple[str, ...],
    words: tuple[str, ...],
    out: Path,
    full: Path | None,
    measured: int,
    device: str,
    threads: int | None,
    stop_at: int | None,
    **options: Any,
) -> None:
    """Train a finished model further on one domain, wholly or in part, and say what it gained."""
    parallel.check_alone("Fine-tuning")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    what = read_what(" ".join(words))
    chosen = tuple(dict.fromkeys(domains))
    request = Request(parent, corpus, chosen, what, own=measured, **options)
    try:
        pace = Pace(parallel.own_device(device), stop_at=stop_at)
        result = work(request, out, full=full, pace=pace)
    except KeyboardInterrupt:
        say(checkpoint.where_it_stands(out), err=True)
        raise SystemExit(INTERRUPTED) from None
    if result is None:
        say(checkpoint.where_it_stands(out), err=True)
    else:
        _tell(result, out)


def _tell(result: dict[str, Any], out: Path) -> None:
    """The result in a few lines."""
    parameters, own = result["parameters"], result["summary"]["own"]["all"]
    others = result["summary"]["others"].get("all", {})
    say(
        f"{result['what']} of {', '.join(result['domains'])}: {parameters['trained']:,} of "
        f"{parameters['all']:,} parameters trained ({parameters['share']:.1%}), "
        f"{result['tokens']:,} tokens."
    )
    say(f"{own['documents']} held-out documents, {own['tokens']:,} tokens, in nats a token:")
    for name, found in own.items():
        if isinstance(found, list):
            elsewhere = f"   other domains {gains.in_words(others[name])}" if name in others else ""
            say(f"  {name:16} {gains.in_words(found)}{elsewhere}")
    if result.get("kept") == {}:
        say("  The full fine-tuning gained nothing, so nothing of it is kept.")
    for name, share in result.get("kept", {}).items():
        alone = ", by the module alone" if name.endswith(gains.MODULE) else ""
        say(f"  share of the full fine-tuning's gain{alone}: {gains.in_words(share)}")
    if other := result.get("unlike_full"):
        told = ", ".join(f"{name} {theirs}, not {own}" for name, (theirs, own) in other.items())
        say(f"  The full fine-tuning was another one ({told}): these shares compare that as well.")
    say(f"{out / RESULT}; the model is {out / EXPORT}.")


if __name__ == "__main__":
    main()
