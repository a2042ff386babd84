"""Opening a checkpoint as the trainer leaves it, or an exported one: a model and its tokenizer."""

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.emo.modeling import EmoForCausalLM
    from model.train.presets import Preset

RUN, WEIGHTS = "run.json", "model.safetensors"


def find_tokenizer(folders: list[Path], given: Path | None) -> "PreTrainedTokenizerBase":
    """The tokenizer of the folder `given`, else of the first checkpoint that has one.

    Raises ValueError where there is none.
    """
    from model.run.loading import load_tokenizer

    if given is not None:
        return load_tokenizer(given)
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            return load_tokenizer(folder)
    raise ValueError(
        "Checkpoints of a training run have no tokenizer; name its corpus' with --tokenizer."
    )


def open_checkpoint(
    folder: Path, tokenizer: "PreTrainedTokenizerBase"
) -> "tuple[EmoForCausalLM, int | None]":
    """The model of a checkpoint in eval mode, and the tokens of a training step, if it says so.

    folder: step-N of a training run by one process, or an exported checkpoint. Raises ValueError,
    one sentence, if it is neither, or damaged.
    """
    from model.run.loading import load_model

    if not (folder / RUN).is_file():
        return load_model(folder), None
    preset = read_preset(folder)
    return _load(folder, preset, tokenizer), preset.tokens_per_step


def read_preset(folder: Path) -> "Preset":
    """The preset of a training checkpoint. Raises ValueError if it is damaged or of another
    version of the trainer."""
    from model.emo.routing import PoolSizes
    from model.train.checkpoint import read_run
    from model.train.presets import Preset

    said: dict[str, Any] = read_run(folder)["preset"]
    known = {field.name for field in fields(Preset)}
    if strange := sorted(said.keys() - known):
        raise ValueError(
            f"{folder / RUN} has settings that this version does not know ({strange[0]}); use the "
            "version that trained it."
        )
    try:
        preset = Preset(**(said | {"betas": tuple(said["betas"])}))
        return replace(preset, pools=PoolSizes(**said["pools"]))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{folder / RUN} describes no training run ({error}); copy it again."
        ) from error


def _load(folder: Path, preset: "Preset", tokenizer: "PreTrainedTokenizerBase") -> "EmoForCausalLM":
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from model.emo.modeling import EmoForCausalLM

    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {WEIGHTS}: a run of several processes leaves shards; use its export."
        )
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read; copy the checkpoint again.") from error
    model = EmoForCausalLM(preset.model_config(tokenizer.eos_token_id, tokenizer.pad_token_id))
    named = dict(model.named_parameters())
    if {name: p.shape for name, p in named.items()} != {n: w.shape for n, w in weights.items()}:
        raise ValueError(
            f"{path} holds other weights than its preset asks for; copy the checkpoint again."
        )
    if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        raise ValueError(f"{path} holds NaN or infinity; take an earlier checkpoint.")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights[name])
    model.eval()
    return model
