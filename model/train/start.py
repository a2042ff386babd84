"""Training that begins with the weights of a finished model, as to anneal it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.emo.modeling import EmoForCausalLM
from model.files import weights_digest
from model.run.loading import load_model
from model.train.checkpoint import values_of
from model.train.presets import Preset

ANNEALED: dict[str, Any] = {"warmup_steps": 0, "final_lr_share": 0.0, "schedule": "linear"}
"""What a preset has whose learning rate falls from the first step, in a line to 0."""

GEOMETRY = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_experts", "num_experts_per_layer", "num_shared_experts", "intermediate_size"),
    *("dense_intermediate_size", "correction_bias"),
)


def start_from(folder: Path, model: EmoForCausalLM, preset: Preset) -> Preset:
    """Give the model the weights of a checkpoint; the preset that is returned names them.

    Raises ValueError if the folder holds no checkpoint, or one of other sizes.
    """
    source = load_model(folder)
    theirs, own = values_of(source), values_of(model)
    # A bias of the choice that the checkpoint has not stays at 0.
    theirs = {name: own[name] for name in own if name.endswith("correction_bias")} | theirs
    shapes = [{name: value.shape for name, value in each.items()} for each in (theirs, own)]
    if shapes[0] != shapes[1]:
        wrong = next(name for name in (*own, *theirs) if shapes[0].get(name) != shapes[1].get(name))
        raise ValueError(
            f"{folder} differs in {_field(source, model) or wrong} from the model to be trained; "
            "give the preset and the corpus that it was trained with."
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(theirs[name])
    return replace(preset, start=weights_digest(folder))


def _field(source: EmoForCausalLM, model: EmoForCausalLM) -> str | None:
    """The first field of their configs that gives the two models other shapes, with both values."""
    theirs, own = (each.config.to_dict() for each in (source, model))
    other = [name for name in GEOMETRY if theirs.get(name) != own.get(name)]
    return f"{other[0]} ({theirs.get(other[0])}, not {own.get(other[0])})" if other else None
