"""Train a model: python -m model.train --preset nano --objective emo

`torchrun --nproc-per-node=2 -m model.train ...` shares the rows of every step among two processes.
Continues by itself from the newest checkpoint of the same run, also after a kill. When the last
step is done the model is exported to <out>/export in the released format (bf16 safetensors).
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import click
import torch
from transformers import PreTrainedTokenizerBase

from model.config import Objective
from model.data.shards import TokenShard
from model.loading import export_model, load_tokenizer
from model.modeling import EmoForCausalLM
from model.train import parallel
from model.train.batches import PackedRows, heldout_batches
from model.train.loop import train
from model.train.presets import PRESETS, Preset, find_preset, multiplies_bf16


@click.command()
@click.option("--preset", "name", default="nano", type=click.Choice(sorted(PRESETS)))
@click.option("--objective", default="emo", type=click.Choice(["emo", "standard", "dense"]))
@click.option("--corpus", type=click.Path(path_type=Path), default=Path("data/corpus"))
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="runs/<preset>-<objective>"
)
@click.option("--steps", type=click.IntRange(min=1), default=None)
@click.option("--rows", type=click.IntRange(min=1), default=None, help="Packed rows a step.")
@click.option(
    "--own-rows/--packed",
    default=None,
    help="Long documents share their rows with no other; or rows are cut wherever documents end.",
)
@click.option("--seed", type=int, default=None)
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads.")
@click.option(
    "--bf16/--fp32",
    default=None,
    help="Of matrix products; bf16 where the processor multiplies it.",
)
@click.option("--stop-at", type=click.IntRange(min=1), default=None, help="Pause after this step.")
def main(
    name: str,
    objective: Objective,
    corpus: Path,
    out: Path | None,
    steps: int | None,
    rows: int | None,
    own_rows: bool | None,
    seed: int | None,
    threads: int | None,
    bf16: bool | None,
    stop_at: int | None,
) -> None:
    """Pretrain an EMO, a standard MoE or a dense model on a built corpus."""
    torch.set_num_threads(threads or _fair_threads())
    bf16 = multiplies_bf16() if bf16 is None else bf16
    try:
        changes = {"steps": steps, "rows": rows, "own_rows": own_rows, "seed": seed, "bf16": bf16}
        preset = find_preset(name, objective, **changes)
        with parallel.process_group():
            _run(preset, corpus, out or Path("runs") / f"{name}-{objective}", stop_at)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _fair_threads() -> int:
    """This machine's cores, divided among the processes that torchrun started on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _run(preset: Preset, corpus: Path, out: Path, stop_at: int | None) -> None:
    shard, heldout = TokenShard.open(corpus, "train"), TokenShard.open(corpus, "heldout")
    tokenizer = load_tokenizer(corpus / "tokenizer")
    torch.manual_seed(preset.seed)
    model = EmoForCausalLM(preset.model_config(tokenizer.eos_token_id, tokenizer.pad_token_id))
    batches = PackedRows(shard.tokens, preset, tokenizer.eos_token_id)
    documents = heldout_batches(heldout.document, min(256, len(heldout)), preset.context)
    train(model, batches, preset, out, documents, stop_at=stop_at)
    if stop_at is None or stop_at >= preset.steps:
        whole = parallel.gather(model)
        if whole is not None:
            _export(whole, tokenizer, preset, out / "export")


def _export(
    model: EmoForCausalLM, tokenizer: PreTrainedTokenizerBase, preset: Preset, folder: Path
) -> None:
    training = {**asdict(preset), "tokens": preset.steps * preset.tokens_per_step}
    export_model(model, tokenizer, folder)
    (folder / "training.json").write_text(json.dumps(training, indent=1))


if __name__ == "__main__":
    main()
