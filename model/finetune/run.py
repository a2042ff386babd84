"""One fine-tuning: a parent, a domain, what trains; its result is one JSON file and an export.

A run is a folder: request.json (what was asked, written first), checkpoints while it trains, and at
the end export/ (the released format), adapter/ of a LoRA, module.json of a module (`emo_viz cut`
makes a model of its own of it), and result.json. What has that is done.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from model.data.shards import corpus_digest
from model.emo.config import UNKNOWN
from model.emo.modeling import EmoForCausalLM
from model.evaluate.passes import document_means, token_losses
from model.families.opening import transformers_alone
from model.files import (
    check_writable,
    contents,
    new_folder,
    read_json,
    weights_digest,
    write_json,
    write_text,
)
from model.finetune import gains, lora
from model.finetune.extend import extended
from model.finetune.parts import RESTRICTED, Parts, What, check_what, count, only, parts_of
from model.finetune.preferred import preferred_only
from model.finetune.texts import Measured, Texts
from model.run.loading import export_model, load_model, load_tokenizer
from model.run.selection import expert_scores, select_experts
from model.run.subset import ExpertSubset, apply_subset
from model.train import checkpoint, metrics
from model.train.batches import PackedRows
from model.train.loop import train
from model.train.presets import Preset, bf16_gains

FORMAT, FORMAT_VERSION = "emo-viz-finetuning", 1
REQUEST, RESULT, MODULE_FILE = "request.json", "result.json", "module.json"
EXPORT, ADAPTER = "export", "adapter"
MAX_CONTEXT = 1024  # tokens a row, unless the parent says what it was trained with
CHECKPOINT_EVERY = 50
WARM_UP = 0.1  # of the steps, then a line to 0, as the released models were fine-tuned
BALANCING = 0.01
# At the peak; found for the nano pair by a few short runs on a domain that no table has.
LEARNING_RATES = {
    "all": 3e-4,
    "experts": 5e-4,
    "expert": 1e-3,
    "module": 1e-3,
    "subset": 3e-4,
    "router": 3e-3,
    "lora": 3e-3,
    "preferred": 1e-3,
    "new": 1e-3,
}


@dataclass(frozen=True)
class Request:
    """What is asked of a fine-tuning. `rows` of the context's length a step; `rank` of a LoRA.

    shared: a module's shared experts train as well. pools: EMO's document pools stay in training.
    calibration, own, others: documents that choose experts, measure the domain, and each other one.
    """

    parent: Path
    corpus: Path
    domains: tuple[str, ...]
    what: What
    steps: int = 300
    rows: int = 8
    learning_rate: float | None = None
    seed: int = 0
    rank: int = 4
    shared: bool = False
    pools: bool = False
    context: int | None = None
    calibration: int = 16
    own: int = 48
    others: int = 4


@dataclass(frozen=True)
class Parent:
    """A checkpoint to be trained further, and what is known of it."""

    folder: Path
    model: EmoForCausalLM
    tokenizer: PreTrainedTokenizerBase
    digest: str
    context: int

    @classmethod
    def open(cls, folder: Path, corpus: Path) -> "Parent":
        """Raises ValueError for a checkpoint that is none of ours, is damaged, or reads other
        tokens than the corpus holds.
        """
        model, tokenizer = load_model(folder), load_tokenizer(folder)
        digest = corpus_digest(corpus)  # a missing corpus is said before its tokenizer is missed
        theirs = load_tokenizer(corpus / "tokenizer")
        if digest and tokenizer.get_vocab() != theirs.get_vocab():
            raise ValueError(
                f"The tokenizer of {folder} ({len(tokenizer):,} tokens) is not that of {corpus} "
                f"({len(theirs):,}); build the corpus with the checkpoint's tokenizer."
            )
        return cls(folder, model, tokenizer, weights_digest(folder), _context(folder, model))

    @property
    def objective(self) -> str:
        """What it was trained with."""
        return str(self.model.config.objective)

    @property
    def eos(self) -> int:
        """The token that opens documents."""
        eos = self.model.config.eos_token_id
        return int(eos if isinstance(eos, int) else self.tokenizer.eos_token_id)


def _context(folder: Path, model: EmoForCausalLM) -> int:
    """Tokens a row: as the parent was trained, if it says so."""
    most = int(model.config.max_position_embeddings)
    told = folder / "training.json"
    known = read_json(told).get("context") if told.is_file() else None
    return min(known if isinstance(known, int) and known > 1 else MAX_CONTEXT, most)


@dataclass(frozen=True)
class Pace:
    """How a run proceeds, whatever it finds."""

    device: torch.device = torch.device("cpu")
    checkpoint_every: int = CHECKPOINT_EVERY
    stop_at: int | None = None
    progress: Callable[..., Any] = tqdm


def work(
    request: Request,
    out: Path,
    *,
    full: Path | None = None,
    module: ExpertSubset | None = None,
    pace: Pace | None = None,
) -> dict[str, Any] | None:
    """Train, measure, export and write the result, going on where an earlier try stopped.

    full: a result of --what all to be held against. module: the experts of a module, if they are
    not to be chosen. Returns the result, None if the run paused at the pace's `stop_at`. Raises
    ValueError for a request that cannot be met or a folder that is another run's, with nothing
    there changed.
    """
    parent = Parent.open(request.parent, request.corpus)
    check_what(parent.model.config, request.what)
    _check_pools(request, parent)
    against = None if full is None else read_json(full)
    asked = identity(request, parent, module)
    known = _known(parent, asked)
    if against is not None:
        gains.check_full(known, against, str(full))
    if (out / RESULT).is_file():
        check_same(out, asked)
        return _held_against(read_json(out / RESULT), against, full, out)
    context = request.context or parent.context
    _check_context(context, parent)
    texts = Texts.read(
        request.corpus,
        request.domains,
        context,
        calibration=request.calibration,
        own=request.own,
        others=request.others,
    )
    if against is not None:  # before the long work: what it is held against must be of these
        gains.check_full(known | {"documents": texts.to_json()}, against, str(full))
    pace = pace or Pace()
    preset = _preset(request, parent, context, pace.device)
    rows = PackedRows(texts.stream, preset, parent.eos)
    check_same(out, asked)
    check_writable(out / EXPORT)
    write_json(out / REQUEST, asked)
    result = _Run(request, parent, texts, preset, rows, pace).finish(out, asked, module)
    return result if result is None else _held_against(result, against, full, out)


def _known(parent: Parent, asked: dict[str, Any]) -> dict[str, Any]:
    """What a result says of where it comes from."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "what": asked["what"],
        "domains": asked["domains"],
        "parent": {
            "folder": str(parent.folder),
            "weights_sha256": parent.digest,
            "objective": parent.objective,
        },
        "corpus": asked["corpus"],
    }


def _check_pools(request: Request, parent: Parent) -> None:
    if request.pools and parent.objective == UNKNOWN:
        raise ValueError(
            f"{parent.folder} does not say that it was trained with pools; leave --pools out, or "
            "set objective in its config.json."
        )


def _check_context(context: int, parent: Parent) -> None:
    most = parent.model.config.max_position_embeddings
    if not 2 <= context <= most:
        raise ValueError(f"--context must be 2 to {most} (what the model takes), not {context}.")


def identity(request: Request, parent: Parent, module: ExpertSubset | None) -> dict[str, Any]:
    """All that decides a run, as JSON has it."""
    experts = None if module is None else module.experts
    fields = {
        "parent": parent.digest,
        "corpus": corpus_digest(request.corpus),
        "domains": list(request.domains),
        "what": str(request.what),
        "experts": experts,
        "steps": request.steps,
        "rows": request.rows,
        "learning_rate": request.learning_rate or LEARNING_RATES[request.what.kind],
        "seed": request.seed,
        "rank": request.rank if request.what.kind == "lora" else None,
        "shared": request.shared,
        "pools": request.pools,
        "context": request.context or parent.context,
        "calibration": request.calibration,
        "own": request.own,
        "others": request.others,
    }
    known: dict[str, Any] = json.loads(json.dumps(fields))
    return known


def check_same(out: Path, asked: dict[str, Any], kind: str = "fine-tuning") -> None:
    """Raises ValueError if `out` is a file, another run's, or holds something else."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out needs a folder.")
    theirs = read_json(out / REQUEST) if (out / REQUEST).is_file() else None
    if theirs is None:
        if contents(out):
            raise ValueError(f"{out} holds something that is no {kind}; choose another --out.")
        return
    other = [name for name in asked if theirs.get(name) != asked[name]]
    if other:
        told = "; ".join(
            f"{name} {_short(theirs.get(name))}, not {_short(asked[name])}" for name in other
        )
        raise ValueError(
            f"{out} is another {kind} ({told}); give the same options, or another --out."
        )


def _short(value: Any) -> str:
    text = json.dumps(value).strip('"')
    return text if len(text) < 40 else f"{text[:12]}.."


def _preset(request: Request, parent: Parent, context: int, device: torch.device) -> Preset:
    """The settings of the training loop, in the parent's sizes."""
    config = parent.model.config
    new = request.what.number if request.what.kind == "new" else 0
    return Preset(
        name="finetune",
        objective="dense" if config.objective == "dense" else "standard",
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        expert_width=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_experts=config.num_experts + new,
        num_experts_per_tok=config.num_experts_per_tok,
        num_shared_experts=config.num_shared_experts,
        max_position_embeddings=config.max_position_embeddings,
        context=context,
        rows=request.rows,
        steps=request.steps,
        warmup_steps=round(WARM_UP * request.steps),
        learning_rate=request.learning_rate or LEARNING_RATES[request.what.kind],
        final_lr_share=0.0,
        schedule="linear",
        weight_decay=0.0,  # what is frozen stays bitwise: see `parts.py`
        balancing_coef=BALANCING,
        pools=config.pool_sizes,
        own_rows=True,
        seed=request.seed,
        bf16=bf16_gains(device),
        start=parent.digest,
    )


@dataclass
class _Run:
    """The parts of a run whose request has been found good."""

    request: Request
    parent: Parent
    texts: Texts
    preset: Preset
    rows: PackedRows
    pace: Pace
    module: ExpertSubset | None = None

    def finish(
        self, out: Path, asked: dict[str, Any], module: ExpertSubset | None
    ) -> dict[str, Any] | None:
        """Train, measure, export; None if the run paused."""
        what, model = self.request.what, self.parent.model.to(self.pace.device)
        total = sum(weight.numel() for weight in model.parameters())
        self.module = module or self._choose(model)
        losses = self._measure(model, gains.PARENT)
        model, adapted = self._changed(model)
        if what.kind == "new":
            losses = _joined(losses, self._measure(model, "untrained"))
        parts = parts_of(model, what, self.module, self.request.shared)
        trained = lora.adapter_parameters(adapted) if adapted is not None else count(model, parts)
        self._train(model, None if adapted is not None else parts, out)
        if (self.pace.stop_at or self.preset.steps) < self.preset.steps:
            return None
        if adapted is not None:
            lora.save_adapter(adapted, self.parent.folder, out / ADAPTER)
            model = lora.merged(adapted)
        round_weights(model)
        losses = _joined(losses, self._measure(model, gains.TUNED))
        result = self._result(asked, losses, trained, total)
        self._export(model.cpu(), out, result)
        return result

    def _choose(self, model: EmoForCausalLM) -> ExpertSubset | None:
        if self.request.what.kind not in RESTRICTED:
            return None
        calibration = [*self.texts.calibration]
        ids = self.texts.calibration_ids
        return select_experts(model, calibration, self.request.what.number, calibration_ids=ids)

    def _changed(self, model: EmoForCausalLM) -> tuple[EmoForCausalLM, Any]:
        """The model that trains, and the peft model around it if there is one."""
        what = self.request.what
        torch.manual_seed(self.request.seed)
        if what.kind == "new":
            scores_LR = expert_scores(model, [*self.texts.calibration])
            return extended(model.cpu(), what.number, scores_LR).to(self.pace.device), None
        if what.kind == "lora":
            return model, lora.with_lora(model, self.request.rank)
        return model, None

    def _measure(self, model: EmoForCausalLM, name: str) -> dict[str, dict[str, Any]]:
        """Losses a document, of the domains' held-out documents and of the others'."""
        model.eval()
        found: dict[str, dict[str, Any]] = {}
        for group, measured in (("own", self.texts.own), ("others", self.texts.others)):
            found[group] = {name: document_losses(model, measured)}
            if self.module is not None:
                with apply_subset(model, self.module):
                    found[group][name + gains.MODULE] = document_losses(model, measured)
        return found

    def _train(self, model: EmoForCausalLM, parts: Parts | None, out: Path) -> None:
        """parts: None for a LoRA, of which peft has said what trains."""
        routing = apply_subset(model, self.module) if self.module else nullcontext()
        what = self.request.what
        marked = preferred_only(model, what.number) if what.kind == "preferred" else nullcontext()
        frozen = nullcontext() if parts is None else only(model, parts)
        with _objective(model, self.request.pools), routing, marked, frozen:
            train(
                model,
                self.rows,
                self.preset,
                out,
                [*self.texts.own.texts[:16]],
                corpus=corpus_digest(self.request.corpus),
                checkpoint_every=self.pace.checkpoint_every,
                stop_at=self.pace.stop_at,
                graph=False,  # a recorded step would not see what is masked
                progress=self.pace.progress,
            )

    def _result(
        self, asked: dict[str, Any], losses: dict[str, dict[str, Any]], trained: int, total: int
    ) -> dict[str, Any]:
        texts = self.texts
        module = None if self.module is None else self.module.experts
        return _known(self.parent, asked) | {
            "request": asked,
            "parameters": {"trained": trained, "all": total, "share": trained / total},
            "tokens": self.preset.steps * self.preset.tokens_per_step,
            "domain_tokens": len(texts.stream),
            "module": module,
            "summary": {
                "own": gains.summary(losses["own"], texts.own),
                "others": gains.summary(losses["others"], texts.others, apart=False),
            },
            "documents": texts.to_json(),
            "losses": {group: gains.rounded(found) for group, found in losses.items()},
        }

    def _export_module(self, out: Path) -> None:
        """The module as a subset of the export, with which it is cut to a model of its own."""
        if self.module is None:
            return
        domain = " ".join(self.request.domains)
        subset = replace(
            self.module,
            model=out.resolve().name,
            weights_sha256=weights_digest(out / EXPORT),
            domain=domain,
        )
        write_text(out / MODULE_FILE, subset.to_json() + "\n")

    def _export(self, model: EmoForCausalLM, out: Path, result: dict[str, Any]) -> None:
        """The model first, then the result that says it is done; only then checkpoints go."""
        tuning = {key: result[key] for key in ("what", "domains", "parent", "corpus", "request")}
        with new_folder(out / EXPORT) as folder, transformers_alone():
            export_model(model, self.parent.tokenizer, folder)
            write_json(folder / "finetuning.json", tuning)
            shutil.copyfile(out / metrics.METRICS, folder / metrics.METRICS)
        self._export_module(out)
        write_json(out / RESULT, result)
        for old in checkpoint.newest_first(out):
            shutil.rmtree(old)


@torch.no_grad()
def round_weights(model: EmoForCausalLM) -> None:
    """Weights as an export has them (bfloat16): what is measured is what is given away."""
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())


def document_losses(model: EmoForCausalLM, measured: Measured) -> Any:
    """The mean loss of each document in nats a token: float64 [D]."""
    return document_means(token_losses(model, list(measured.texts)))


@contextmanager
def _objective(model: EmoForCausalLM, pools: bool) -> Iterator[None]:
    """Without pools an EMO model trains as a standard one does, and as the released were tuned."""
    config = model.config
    before = config.objective
    config.objective = before if pools or before == "dense" else "standard"
    try:
        yield
    finally:
        config.objective = before


def _joined(
    left: dict[str, dict[str, Any]], right: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    return {group: left[group] | right[group] for group in left}


def _held_against(
    result: dict[str, Any], against: dict[str, Any] | None, full: Path | None, out: Path
) -> dict[str, Any]:
    """The result with the shares of the full fine-tuning's gain, kept in `out`."""
    if against is None:
        return result
    gains.check_full(result, against, str(full))
    own = gains.as_losses(result["losses"]["own"])
    theirs = gains.as_losses(against["losses"]["own"])[gains.TUNED]
    documents = result["documents"]["own"]
    tokens = np.array(documents["tokens"], np.float64)
    held = result | {
        "kept": gains.kept_shares(own, theirs, tokens, documents["domain"]),
        "unlike_full": gains.unlike(result, against),
    }
    write_json(out / RESULT, held)
    return held
