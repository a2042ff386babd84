"""Train a model: python -m model.train --preset nano --objective emo

`torchrun --nproc-per-node=2 -m model.train ...` shares the rows of every step among two processes.
Continues by itself from the newest checkpoint of the same run, also after a kill. When the last
step is done the model is exported to <out>/export in the released format (bf16 safetensors).
"""

import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from transformers import PreTrainedTokenizerBase

from model.cli import INTERRUPTED, Command
from model.data.mixture import in_words, read_mixture
from model.data.shards import TokenShard, corpus_digest
from model.data.tokenizer import load_tokenizer, vocabulary_size
from model.emo.modeling import EmoForCausalLM
from model.files import check_writable, new_folder, read_json, write_json
from model.run.loading import export_model
from model.train import checkpoint, metrics, options, parallel
from model.train.batches import PackedRows, check_ids, heldout_batches
from model.train.checkpoint import Kept
from model.train.loop import train
from model.train.presets import Preset, bf16_gains, find_preset
from model.train.recompute import Recompute
from model.train.resume import identity
from model.train.start import ANNEALED, start_from


@click.command(cls=Command)
@options.of_the_run
@options.of_the_preset
def main(
    name: str,
    objective: str,
    corpus: Path,
    out: Path | None,
    device: str,
    threads: int | None,
    source: Path | None,
    anneal: bool,
    stop_at: int | None,
    accumulation: int | None,
    micro_rows: int | None,
    recompute: Recompute,
    gather: parallel.Gather,
    checkpoint_every: int,
    evaluate_every: int,
    load_every: int,
    keep: int,
    keep_at: frozenset[int],
    guards: bool,
    bf16: bool | None,
    **changes: Any,
) -> None:
    """Pretrain an EMO, a standard MoE or a dense model on a built corpus."""
    torch.set_num_threads(threads or _fair_threads())
    place = parallel.own_device(device)
    bf16 = bf16_gains(place) if bf16 is None else bf16
    out = out or Path("runs") / f"{name}-{objective}"
    if changes["mixture"] is not None:
        changes["mixture"] = in_words(read_mixture(changes["mixture"]))
    changes |= {} if guards else {"guard_sigmas": 0.0, "guard_norms": 0.0}
    changes |= ANNEALED if anneal else {}
    preset = find_preset(name, objective, bf16=bf16, **changes)
    _check_kept(keep_at, preset.steps)
    how: dict[str, Any] = {
        "checkpoint_every": checkpoint_every,
        "evaluate_every": evaluate_every,
        "load_every": load_every,
        "recompute": recompute,
        "gather": gather,
        "kept": Kept(keep, keep_at),
        "stop_at": stop_at,
    }
    try:
        with parallel.process_group(place):
            how["accumulation"] = parts_of_a_step(preset, accumulation, micro_rows)
            _run(preset, corpus, out, place, source, how)
    except KeyboardInterrupt:
        parallel.tell(checkpoint.where_it_stands(out))
        raise SystemExit(INTERRUPTED) from None


def _check_kept(at: frozenset[int], steps: int) -> None:
    if at and max(at) > steps:
        raise ValueError(
            f"--keep-at names step {max(at):,} and the run has {steps:,}; name steps that it takes."
        )


def parts_of_a_step(preset: Preset, accumulation: int | None, micro_rows: int | None) -> int:
    """In how many parts each process takes its rows of a step.

    Raises ValueError if both are given, or if no number of parts has so many rows.
    """
    if micro_rows is None:
        return accumulation or 1
    if accumulation is not None:
        raise ValueError("Give --accumulation or --micro-rows, not both.")
    mine = preset.rows // parallel.world_size()
    if not mine or mine % micro_rows:
        raise ValueError(
            f"The {mine} rows that a process takes of a step are no multiple of --micro-rows "
            f"{micro_rows}."
        )
    return mine // micro_rows


def _fair_threads() -> int:
    """This machine's cores, divided among the processes that torchrun started on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _run(
    preset: Preset,
    corpus: Path,
    out: Path,
    device: torch.device,
    source: Path | None,
    how: dict[str, Any],
) -> None:
    """Train and export; `how` are the arguments of `train` that decide no weight."""
    shard, heldout = TokenShard.open(corpus, "train"), TokenShard.open(corpus, "heldout")
    digest = corpus_digest(corpus)
    tokenizer = load_tokenizer(corpus / "tokenizer")
    preset = preset.for_vocabulary(vocabulary_size(tokenizer))
    check_ids(heldout.tokens, preset.vocab_size)
    domains = shard.index["domain"].astype(str).tolist()
    batches = PackedRows(shard.tokens, preset, tokenizer.eos_token_id, domains)
    check_out(out)
    if source is None and _is_exported(out, preset, digest):
        parallel.tell(f"{out / 'export'} is this very model, finished; remove it to export anew.")
        return
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
    train(model, batches, preset, out, documents, corpus=digest, **how)
    stop_at = how["stop_at"]
    if stop_at is None or stop_at >= preset.steps:
        whole = parallel.whole_model(model)
        if whole is not None:
            _export(whole, tokenizer, preset, digest, out)


def _is_exported(out: Path, preset: Preset, digest: str) -> bool:
    """Whether what is asked for was trained to its end, and is there."""
    with suppress(ValueError):
        kept, asked = read_json(out / "export" / "training.json"), identity(preset, digest)
        asked = asked["preset"] | {"corpus": digest}
        return all(kept.get(name) == value for name, value in asked.items())
    return False


def check_out(out: Path) -> None:
    """Try the run's folder before the work, and that its export may be replaced at the end.

    Raises ValueError where one of the two cannot be.
    """
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
        shutil.copyfile(out / metrics.METRICS, folder / metrics.METRICS)


if __name__ == "__main__":
    main()
