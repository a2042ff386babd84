"""Opening and writing checkpoints, with one clear sentence for each way it can fail."""

import codecs
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model.emo.modeling import EmoForCausalLM
from model.families.opening import dtype_of, transformers_alone
from model.families.sizes import check_fits
from model.files import INDEX, SINGLE, check_writable, inside, new_folder, read_json
from model.run.checkpoint import CONFIG, check_checkpoint, check_links, last_line, read_config

TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
GENERATION = "generation_config.json"


def load_model(
    path: str | Path, dtype: str = "float32", device: torch.device | str = "cpu"
) -> EmoForCausalLM:
    """An EMO-format checkpoint folder as a model in eval mode on a device.

    Raises ValueError if the folder is missing, truncated, of another model type, quantised, reaches
    outside of itself, holds NaN, or holds other tensors than its config asks for; and if it needs
    more memory than there is.
    """
    folder = Path(path)
    check_checkpoint(folder)
    _check_json(folder, GENERATION)
    _check_index(folder)
    check_fits(folder, torch.device(device), dtype_of(dtype))
    try:
        with transformers_alone():
            model, report = EmoForCausalLM.from_pretrained(
                folder,
                # Ours, because transformers' own reader takes no byte order mark.
                config=read_config(folder),
                dtype=dtype_of(dtype),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # the headers are in order; what is left has many kinds
        raise ValueError(
            f"The weights in {folder} cannot be read ({last_line(error)}); copy or train the "
            "checkpoint again."
        ) from error
    _check_weights(folder, model, report)
    return model.to(device).eval()


def _check_index(folder: Path) -> None:
    """transformers asks for more in an index than where the weights lie."""
    if not (folder / SINGLE).is_file():
        _check_json(folder, INDEX)
        if "metadata" not in read_json(folder / INDEX):
            raise ValueError(f"{folder / INDEX} has no metadata; copy the checkpoint again.")


def _check_weights(folder: Path, model: EmoForCausalLM, report: dict) -> None:
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if keys := sorted(map(str, report.get(kind) or ())):
            raise ValueError(
                f"{folder} holds other weights than its config asks for ({kind.split('_')[0]}: "
                f"{keys[0]}, {len(keys)} in all); copy or train the checkpoint again."
            )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ValueError(f"{folder}: {name} holds NaN or infinity; train the model again.")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer saved in a checkpoint or corpus folder; code in the folder is never run.

    Raises ValueError if there is none, it is damaged, or it has no end-of-text token.
    """
    folder = Path(path)
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"There is no tokenizer in {folder} (no {TOKENIZER}); check the path.")
    check_links(folder)
    for name in TOKENIZER_FILES:
        _check_json(folder, name)
    _check_own_config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(_no_tokenizer(folder, error)) from error
    if not tokenizer.is_fast or not isinstance(tokenizer.eos_token_id, int):
        raise ValueError(
            f"The tokenizer in {folder} names no end-of-text token (eos_token), which opens every "
            "document; set it in tokenizer_config.json."
        )
    return tokenizer


def _check_own_config(folder: Path) -> None:
    """transformers reads the config beside a tokenizer too; other models' are their own affair."""
    if (folder / CONFIG).exists() and read_json(inside(folder, CONFIG)).get("model_type") == "emo":
        read_config(folder)


def _check_json(folder: Path, name: str) -> None:
    """What transformers will read by itself: JSON, if it is there, and without a mark."""
    if not (folder / name).exists():
        return
    path = inside(folder, name)
    read_json(path)
    if path.read_bytes().startswith(codecs.BOM_UTF8):
        raise ValueError(f"{path} begins with a byte order mark; save it as UTF-8 without one.")


def _no_tokenizer(folder: Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"The tokenizer in {folder} asks for code of its own (auto_map in "
            "tokenizer_config.json), which is never run; save it as a plain tokenizer.json."
        )
    return f"The tokenizer in {folder} cannot be read ({last_line(error)}); copy it again."


def export_model(
    model: EmoForCausalLM, tokenizer: PreTrainedTokenizerBase, path: str | Path
) -> None:
    """Write model (bf16 safetensors, released names) and tokenizer, all or nothing.

    A checkpoint that is there already is replaced. Raises ValueError if something else is, or if
    the folder cannot be written.
    """
    folder = Path(path)
    if folder.exists() and not (folder / CONFIG).is_file() and not _is_empty(folder):
        raise ValueError(f"{folder} exists and is not a checkpoint; name another folder.")
    check_writable(folder)
    copy = EmoForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16)  # but for biases of the choice, which keep float32
    with new_folder(folder) as partial:
        copy.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
