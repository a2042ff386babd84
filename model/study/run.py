"""One run of the study: trained with exact resume, evaluated, its result one JSON file."""

import gc
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from model.data.heldout import EVALUATED, HeldOut, held_out
from model.data.shards import TokenShard, corpus_digest
from model.data.tokenizer import load_tokenizer, vocabulary_size
from model.emo.modeling import EmoForCausalLM
from model.evaluate.measure import evaluate
from model.files import new_folder, read_json, read_text, write_json
from model.run.loading import export_model, load_model
from model.study.queue import answer
from model.study.runs import ANNEAL_SHARE, Run
from model.train import checkpoint, metrics
from model.train.batches import PackedRows
from model.train.loop import Silent, train
from model.train.presets import Preset, bf16_gains, find_preset
from model.train.start import start_from

RESULT = "result.json"
METRICS_EVERY = 50
HELD_OUT = 64  # documents whose loss is watched during training
# A GPU run is over sooner than it would take to write its checkpoints.
CHECKPOINT_EVERY = {"cpu": 50}


@dataclass(frozen=True)
class Place:
    """Where a study works: corpus folder, work folder, device; steps and rows for a rehearsal."""

    corpus: Path
    work: Path
    device: str
    steps: int | None = None
    rows: int | None = None

    def folder(self, key: str) -> Path:
        """Of a run's checkpoints, export and result."""
        return self.work / key


@dataclass(frozen=True)
class Corpus:
    """What all runs of a study share, read once a process."""

    rows: Any
    tokenizer: PreTrainedTokenizerBase
    documents: list[HeldOut]
    digest: str

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Raises ValueError if the corpus is missing or damaged."""
        tokens = TokenShard.open(folder, "train").tokens
        tokenizer = load_tokenizer(folder / "tokenizer")
        return cls(tokens, tokenizer, held_out(folder), corpus_digest(folder))


def settings(run: Run, place: Place, corpus: Corpus) -> Preset:
    """The preset of a run in this study."""
    preset = find_preset("nano", run.objective, seed=run.seed, **run.changes)
    steps = place.steps or preset.steps
    steps = max(1, round(ANNEAL_SHARE * steps)) if run.start else steps
    preset = replace(
        preset,
        steps=steps,
        rows=place.rows or preset.rows,
        warmup_steps=min(preset.warmup_steps, steps),
        bf16=bf16_gains(torch.device(place.device)),
    )
    return preset.for_vocabulary(vocabulary_size(corpus.tokenizer))


def serve(place: Place, threads: int, channel: Connection) -> None:
    """What a worker process does: opens the corpus once, then one run after another."""
    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    corpus: list[Corpus] = []

    def do(run: Run, plainly: bool) -> dict[str, Any]:
        if not corpus:
            corpus.append(Corpus.open(place.corpus))
        return work(run, place, corpus[0], plainly)

    answer(channel, do)


def finished(run: Run, place: Place) -> dict[str, Any] | None:
    """The result of a run that is done, else None."""
    path = place.folder(run.key) / RESULT
    return read_json(path) if path.is_file() else None


def work(run: Run, place: Place, corpus: Corpus, plainly: bool = False) -> dict[str, Any]:
    """Train, evaluate and write the result, going on where an earlier try stopped.

    plainly: without recorded steps (CUDA graphs). Raises ValueError as training and evaluation do.
    """
    started = time.perf_counter()
    folder = place.folder(run.key)
    preset = settings(run, place, corpus)
    source = place.folder(run.start_key) / "export" if run.start_key else None
    preset = _train(preset, corpus, folder, place, source, plainly)
    gc.collect()
    torch.cuda.empty_cache()  # a recorded step's memory serves nobody else; other jobs need it
    trained = time.perf_counter()
    model = load_model(folder / "export", device=place.device)
    found = evaluate(model, corpus.documents)
    result = {
        "run": asdict(run) | {"key": run.key},
        "preset": json.loads(json.dumps(asdict(preset))),
        "corpus": corpus.digest,
        "device": _device_name(place.device),
        "seconds": {
            "training": round(trained - started, 1),
            "evaluation": round(time.perf_counter() - trained, 1),
        },
        "metrics": _curves(folder / metrics.METRICS),
        "evaluation": found,
    }
    write_json(folder / RESULT, result, indent=None)
    for old in checkpoint.newest_first(folder):
        shutil.rmtree(old)
    return result


def _train(
    preset: Preset,
    corpus: Corpus,
    folder: Path,
    place: Place,
    source: Path | None,
    plainly: bool,
) -> Preset:
    """Leaves the trained model in folder/export; a folder that has it is left as it is."""
    tokenizer = corpus.tokenizer
    torch.manual_seed(preset.seed)
    model = EmoForCausalLM(preset.model_config(tokenizer.eos_token_id, tokenizer.pad_token_id))
    if source is not None:
        preset = start_from(source, model, preset)
    if (folder / "export" / "config.json").is_file():
        return preset
    model.to(place.device)
    texts = [each.tokens for each in corpus.documents if each.role == EVALUATED]
    train(
        model,
        PackedRows(corpus.rows, preset, tokenizer.eos_token_id),
        preset,
        folder,
        [text[: preset.context] for text in texts[:: max(1, len(texts) // HELD_OUT)]],
        corpus=corpus.digest,
        checkpoint_every=CHECKPOINT_EVERY.get(torch.device(place.device).type, preset.steps),
        evaluate_every=max(1, preset.steps // 10),
        graph=not plainly,
        progress=Silent,
    )
    _export(model.cpu(), preset, corpus, folder)
    return preset


def _export(model: EmoForCausalLM, preset: Preset, corpus: Corpus, folder: Path) -> None:
    """As `model.train` leaves it, so that `model.train.release` can bundle it."""
    about = {"tokens": preset.steps * preset.tokens_per_step, "corpus": corpus.digest}
    with new_folder(folder / "export") as export:
        export_model(model, corpus.tokenizer, export)
        write_json(export / "training.json", asdict(preset) | about | {"processes": 1}, indent=1)
        shutil.copyfile(folder / metrics.METRICS, export / metrics.METRICS)


def _curves(path: Path) -> dict[str, list[float]]:
    """Training metrics, each the mean of METRICS_EVERY steps; the held-out loss as measured."""
    lines = [json.loads(line) for line in read_text(path).splitlines() if line]
    columns: dict[str, list[float]] = {}
    for name in dict.fromkeys(name for line in lines for name in line):
        if name == "heldout_loss":
            measured = [(line["step"], line[name]) for line in lines if name in line]
            columns["heldout_step"] = [step for step, _ in measured]
            columns[name] = [round(loss, 4) for _, loss in measured]
            continue
        values = np.array([line.get(name, np.nan) for line in lines], np.float64)
        parts = np.array_split(values, max(1, len(values) // METRICS_EVERY))
        columns[name] = [float(f"{part.mean():.5g}") for part in parts]
    return columns


def _device_name(device: str) -> str:
    place = torch.device(device)
    return torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
