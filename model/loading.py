"""Opening and writing checkpoints, with one clear sentence for each way it can fail."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from model.modeling import EmoForCausalLM


def load_model(path: str | Path, dtype: str = "float32") -> EmoForCausalLM:
    """An EMO-format checkpoint folder as a model in eval mode on the CPU.

    Raises ValueError if the folder is missing, truncated, of another model type, or holds NaN.
    """
    folder = Path(path)
    check_checkpoint(folder)
    try:
        with _without_progress_bar():
            model, report = EmoForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
            )
    except (SafetensorError, OSError, RuntimeError, KeyError, EOFError) as error:
        raise ValueError(
            f"The weights in {folder} cannot be read ({str(error).splitlines()[0]}); copy or "
            f"train the checkpoint again."
        ) from error
    _check_weights(folder, model, report)
    return model.eval()


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Keeps transformers' bar out of the output of commands, which draw their own."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def check_checkpoint(folder: Path) -> None:
    """Raises ValueError unless the folder has a config of type "emo" and safetensors weights."""
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"There is no checkpoint at {folder} (no config.json); check the path.")
    try:
        model_type = json.loads(config.read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{config} is not valid JSON; copy the checkpoint again.") from error
    if model_type != "emo":
        raise ValueError(
            f"{folder} holds a model of type {model_type!r}; this loader reads type 'emo'."
        )
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} has no .safetensors weights; other formats are not read.")


def _check_weights(folder: Path, model: EmoForCausalLM, report: dict) -> None:
    missing = report.get("missing_keys") or report.get("mismatched_keys")
    if missing:
        raise ValueError(
            f"{folder} lacks weights that its config asks for ({sorted(map(str, missing))[0]}, "
            f"{len(missing)} in all); copy or train the checkpoint again."
        )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ValueError(f"{folder}: {name} holds NaN or infinity; train the model again.")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer saved in a checkpoint or corpus folder.

    Raises ValueError if there is none.
    """
    folder = Path(path)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"There is no tokenizer in {folder} (no tokenizer.json); check the path.")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def export_model(
    model: EmoForCausalLM, tokenizer: PreTrainedTokenizerBase, path: str | Path
) -> None:
    """Write model (bf16 safetensors, released names) and tokenizer, all or nothing."""
    folder = Path(path)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy = EmoForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
