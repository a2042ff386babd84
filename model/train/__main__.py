"""Train a model: python -m model.train --preset nano --objective emo

`torchrun --nproc-per-node=2 -m model.train ...` shares the rows of every step among two processes.
Continues by itself from the newest checkpoint of the same run, also after a kill. When the last
step is done the model is exported to <out>/export in the released format (bf16 safetensors).
"""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click
import torch
from transformers import PreTrainedTokenizerBase

from model.cli import Command
from model.data.mixture import in_words, read_mixture
from model.data.shards import TokenShard, corpus_digest
from model.data.tokenizer import load_tokenizer, vocabulary_size
from model.emo.modeling import EmoForCausalLM
from model.files import check_writable, new_folder, write_json
from model.run.loading import export_model
from model.train import checkpoint, metrics, parallel
from model.train.batches import PackedRows, check_ids, heldout_batches
from model.train.loop import train
from model.train.objectives import OBJECTIVES
from model.train.presets import PRESETS, Preset, find_preset, multiplies_bf16
from model.train.start import ANNEALED, start_from

# Larger ones would leave the 64 bits of torch's generators (batches.py draws one a step).
MAX_SEED = 10**12
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells have it."""


@click.command(cls=Command)
@click.option("--preset", "name", default="nano", type=click.Choice(sorted(PRESETS)))
@click.option("--objective", default="emo", type=click.Choice(list(OBJECTIVES)))
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
@click.option(
    "--mixture",
    default=None,
    help="How often rows of a domain are taken: news=2,recipes=1, or a .toml or .json file of the "
    "like. Other domains are left out.",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=None)
@click.option(
    "--save",
    default=None,
    type=click.Choice(["xh", "x"]),
    help="What experts on a GPU keep for the backward pass; x computes more and keeps a ninth.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, or auto: the GPU where there is one.",
)
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads.")
@click.option(
    "--bf16/--fp32",
    default=None,
    help="Of matrix products; bf16 where the device multiplies it.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    default=None,
    help="Start from the weights of this checkpoint, as to anneal it with another objective.",
)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=None)
@click.option(
    "--anneal",
    is_flag=True,
    help="The learning rate falls from the first step, in a line to 0.",
)
@click.option("--stop-at", type=click.IntRange(min=1), default=None, help="Pause after this step.")
def main(
    name: str,
    objective: str,
    corpus: Path,
    out: Path | None,
    steps: int | None,
    rows: int | None,
    own_rows: bool | None,
    mixture: str | None,
    seed: int | None,
    save: Literal["xh", "x"] | None,
    device: str,
    threads: int | None,
    bf16: bool | None,
    source: Path | None,
    learning_rate: float | None,
    anneal: bool,
    stop_at: int | None,
) -> None:
    """Pretrain an EMO, a standard MoE or a dense model on a built corpus."""
    torch.set_num_threads(threads or _fair_threads())
    place = parallel.own_device(device)
    bf16 = multiplies_bf16(place) if bf16 is None else bf16
    out = out or Path("runs") / f"{name}-{objective}"
    changes: dict[str, Any] = {"steps": steps, "rows": rows, "own_rows": own_rows, "seed": seed}
    changes["mixture"] = in_words(read_mixture(mixture)) if mixture is not None else None
    changes |= {"bf16": bf16, "save": save, "learning_rate": learning_rate}
    changes |= ANNEALED if anneal else {}
    preset = find_preset(name, objective, **changes)
    try:
        with parallel.process_group(place):
            _run(preset, corpus, out, place, stop_at, source)
    except KeyboardInterrupt:
        parallel.tell(_where_it_stands(out))
        raise SystemExit(INTERRUPTED) from None


def _where_it_stands(out: Path) -> str:
    newest = checkpoint.latest(out)
    if newest is None:
        return f"Stopped before the first checkpoint in {out}; the same command starts again."
    return f"Stopped; {newest} is whole, and the same command goes on from there."


def _fair_threads() -> int:
    """This machine's cores, divided among the processes that torchrun started on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _run(
    preset: Preset,
    corpus: Path,
    out: Path,
    device: torch.device,
    stop_at: int | None,
    source: Path | None,
) -> None:
    shard, heldout = TokenShard.open(corpus, "train"), TokenShard.open(corpus, "heldout")
    digest = corpus_digest(corpus)
    tokenizer = load_tokenizer(corpus / "tokenizer")
    preset = preset.for_vocabulary(vocabulary_size(tokenizer))
    check_ids(heldout.tokens, preset.vocab_size)
    domains = shard.index["domain"].astype(str).tolist()
    batches = PackedRows(shard.tokens, preset, tokenizer.eos_token_id, domains)
    _check_out(out)
    for sentence in batches.told():
        parallel.tell(sentence)
    if preset.steps < preset.warmup_steps:
        parallel.tell(
            f"The warm-up takes {preset.warmup_steps:,} steps and the run {preset.steps:,}: its "
            "learning rate stays below the peak."
        )
    torch.manual_seed(preset.seed)
    config = preset.model_config(tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = EmoForCausalLM(config)  # made on the CPU: equal weights on every device
    if source:
        preset = start_from(source, model, preset)
    model.to(device)
    documents = heldout_batches(heldout.document, min(256, len(heldout)), preset.context)
    train(model, batches, preset, out, documents, corpus=digest, stop_at=stop_at)
    if stop_at is None or stop_at >= preset.steps:
        whole = parallel.gather(model)
        if whole is not None:
            _export(whole, tokenizer, preset, digest, out)


def _check_out(out: Path) -> None:
    """Try the run's folder before the work, and that its export may be replaced at the end."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out needs a folder.")
    check_writable(out / "export")
    export = out / "export"
    if not export.exists():
        return
    if not (export / "config.json").is_file():
        raise ValueError(f"{export} holds something that is no model; choose another --out.")
    if checkpoint.latest(out) is None:
        raise ValueError(
            f"{export} is a finished model, but no checkpoint is left to go on from; choose "
            "another --out, or remove it to train anew."
        )


def _export(
    model: EmoForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    preset: Preset,
    digest: str,
    out: Path,
) -> None:
    """The model, its settings and its metrics, all or nothing."""
    tokens = preset.steps * preset.tokens_per_step
    run = {"tokens": tokens, "corpus": digest, "processes": parallel.world_size()}
    with new_folder(out / "export") as folder:
        export_model(model, tokenizer, folder)
        write_json(folder / "training.json", asdict(preset) | run, indent=1)
        shutil.copyfile(out / metrics.FILE, folder / metrics.FILE)


if __name__ == "__main__":
    main()
