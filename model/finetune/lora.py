"""Low-rank changes of stacked experts, by peft: trained beside the frozen weights, then added.

peft's `target_parameters` takes parameters that are no Linear: [E, out, in] get a pair of matrices
for every expert. The shared expert lies in the same stack and so gets one too.
"""

import warnings
from pathlib import Path
from typing import Any

from model.emo.modeling import EmoForCausalLM

STACKED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def with_lora(model: EmoForCausalLM, rank: int) -> Any:
    """A peft model around `model`, whose layers are changed in place; at first it says the same.

    The changes weigh 2 (alpha is twice the rank), as is usual.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=[],
        target_parameters=STACKED,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # That no Linear is a target, which is what is meant; and of its own use of transformers.
        warnings.simplefilter("ignore")
        return get_peft_model(model, config)


def adapter_parameters(peft_model: Any) -> int:
    """How many numbers of the low-rank pairs train."""
    return sum(p.numel() for p in peft_model.parameters() if p.requires_grad)


def save_adapter(peft_model: Any, parent: Path, folder: Path) -> None:
    """The pairs alone, as peft reads them (`PeftModel.from_pretrained`); names its parent."""
    peft_model.peft_config["default"].base_model_name_or_path = str(parent)
    peft_model.save_pretrained(folder, save_embedding_layers=False)


def merged(peft_model: Any) -> EmoForCausalLM:
    """The model with the changes added to its experts, and peft gone."""
    model: EmoForCausalLM = peft_model.merge_and_unload()
    return model
