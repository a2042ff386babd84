"""What a checkpoint folder holds, checked before anything in it is loaded or cut.

Only config.json and the headers of the safetensors files are read: names, shapes and types of the
tensors, against those of the model that the config describes. transformers would load a checkpoint
whose config speaks of fewer layers or experts than its files hold, and leave the rest out silently.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors import SafetensorError, safe_open

from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.files import inside, no_checkpoint, read_json, weight_files

CONFIG = "config.json"
# What transformers reads beside the weights, and what a cut copies.
SMALL_FILES = (".json", ".txt", ".model", ".jinja")
TEMPLATES = "additional_chat_templates"
MOST_LAYERS = 10_000
FLOATS = {"F64", "F32", "F16", "BF16"}

EXPERT = re.compile(r"(model\.layers\.(\d+)\.mlp\.experts\.)(\d+)(\..+)")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_FUSED = re.compile(r"(model\.layers\.\d+\.mlp\.experts\.)(gate_up|down)_proj")
# Older transformers wrote this one, which is computed, not learnt.
_COMPUTED = "rotary_emb.inv_freq"

Shape = tuple[int, ...]
LONGEST = 300  # characters of another library's words


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies, and its shape."""

    file: Path
    shape: Shape


def is_of_other_family(folder: Path) -> bool:
    """Whether a folder's config says another type than "emo"; False where there is none, which
    `read_config` says. Raises ValueError for a config that cannot be read."""
    known = (folder / CONFIG).is_file()
    return known and bool(read_json(inside(folder, CONFIG)).get("model_type") != "emo")


def check_checkpoint(folder: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint of type "emo", by name.

    Raises ValueError, in one sentence, unless its config describes a model, its files stay inside
    the folder, and they hold that model's tensors, all and no others, as plain floating point.
    """
    config = read_config(folder)
    check_links(folder)
    stored = stored_tensors(folder)
    _check_counts(folder, config, stored)
    _check_tensors(folder, config, stored)
    return stored


def read_config(folder: Path) -> EmoConfig:
    """The config of a checkpoint folder. Raises ValueError if there is none of type "emo"."""
    path = folder / CONFIG
    if not path.is_file():
        raise no_checkpoint(folder)
    fields = read_json(inside(folder, CONFIG))
    if fields.get("model_type") != "emo":
        raise ValueError(
            f"{folder} holds a model of type {fields.get('model_type')!r}; this loader reads type "
            "'emo' alone, as training does. The app, model.evaluate, and `record`, `subset` and "
            "`cut` of `python -m emo_viz` take the other families too."
        )
    if fields.get("quantization_config"):
        raise ValueError(
            f"{folder} holds quantised weights, which are not read; get the checkpoint in bf16, "
            "fp16 or fp32."
        )
    layers = fields.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:  # before anything counts them
        raise ValueError(f"{path} describes no model (num_hidden_layers={layers}); copy it again.")
    try:
        return EmoConfig.from_dict(fields)
    except StrictDataclassFieldValidationError as error:
        name = str(error).split("'")[1]
        raise ValueError(
            f"{path} describes no model: {name} cannot be {fields.get(name)!r:.60}; copy it again."
        ) from error
    except Exception as error:  # of many kinds: each field has its own checks
        raise ValueError(f"{path} describes no model ({last_line(error)}); copy it again.") from (
            error
        )


def last_line(error: Exception) -> str:
    """The part of an error's text that names the cause, without its full stop."""
    if isinstance(error, AttributeError | TypeError | LookupError | RecursionError):
        return "a value in it is of another kind than it should be"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().removesuffix(".")[:LONGEST]


def check_links(folder: Path) -> None:
    """Raises ValueError for a link that leads out of the folder among the files that are read."""
    for path in sorted(folder.iterdir()):
        read = path.suffix in (*SMALL_FILES, ".safetensors") or path.name == TEMPLATES
        if read and path.is_symlink():
            inside(folder, path.name)


def stored_tensors(folder: Path, any_kind: bool = False) -> dict[str, Stored]:
    """The tensors of a checkpoint's files by name, from their headers alone.

    any_kind: quantised ones too. Raises ValueError for what is missing, damaged or there twice.
    """
    stored: dict[str, Stored] = {}
    for file in weight_files(folder):
        for name, shape in _header(file, any_kind).items():
            if name in stored:
                raise ValueError(
                    f"{folder} holds {name} twice ({stored[name].file.name}, {file.name}); copy "
                    "the checkpoint again."
                )
            stored[name] = Stored(file, shape)
    return stored


def _header(file: Path, any_kind: bool) -> dict[str, Shape]:
    with reading(file), safe_open(file, framework="pt") as tensors:
        shapes = {}
        for name in tensors.keys():  # noqa: SIM118  (not a mapping)
            slices = tensors.get_slice(name)
            if not any_kind and slices.get_dtype() not in FLOATS:
                raise ValueError(
                    f"{file} holds {name} as {slices.get_dtype()}, quantised weights, which are "
                    "not read; get the checkpoint in bf16, fp16 or fp32."
                )
            shapes[name] = tuple(slices.get_shape())
        return shapes


class reading:  # noqa: N801  (reads as a statement)
    """A `with` block that reads a weight file: what safetensors says becomes one sentence."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, SafetensorError | OSError | RuntimeError):
            raise ValueError(
                f"{self.file} cannot be read ({last_line(error)}); copy the checkpoint again."
            ) from error


def _check_counts(folder: Path, config: EmoConfig, stored: Mapping[str, Stored]) -> None:
    """Layers and experts first: of these a config is most often wrong, and may be absurdly so."""
    layers = {int(match[1]) for name in stored if (match := _LAYER.match(name))}
    if len(layers) != config.num_hidden_layers:
        raise ValueError(
            f"{folder} holds {len(layers)} layers and its {CONFIG} asks for "
            f"{config.num_hidden_layers}; get the two of one checkpoint."
        )
    if len(config.num_experts_per_layer or layers) != len(layers):
        raise ValueError(
            f"{folder / CONFIG} lists the experts of {len(config.num_experts_per_layer or ())} "
            f"layers of {len(layers)}; get the file that belongs to these weights."
        )
    if config.objective == "dense" or _are_fused(stored):
        return
    matches = [match for name in stored if (match := EXPERT.fullmatch(name))]
    held = Counter(layer for layer, _ in {(int(match[2]), int(match[3])) for match in matches})
    for layer in range(len(layers)):
        if held[layer] != config.experts_in_layer(layer):
            raise ValueError(
                f"{folder} holds {held[layer]} experts in layer {layer} and its {CONFIG} asks for "
                f"{config.experts_in_layer(layer)}; get the two of one checkpoint."
            )


def _are_fused(stored: Mapping[str, Stored]) -> bool:
    return any(_FUSED.fullmatch(name) for name in stored)


def _check_tensors(folder: Path, config: EmoConfig, stored: Mapping[str, Stored]) -> None:
    expected = _expected(folder, config, released=not _are_fused(stored))
    held = {name: at.shape for name, at in stored.items() if not name.endswith(_COMPUTED)}
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    _refuse(
        sorted(expected.keys() - held.keys() - tied),
        f"{folder} lacks weights that its config asks for",
        "copy or train the checkpoint again.",
    )
    _refuse(
        sorted(held.keys() - expected.keys()),
        f"{folder} holds weights that its config has no place for",
        f"get the {CONFIG} that belongs to them.",
    )
    wrong = sorted(name for name in held if held[name] != expected[name])
    _refuse(
        [f"{name} of shape {list(held[name])}, not {list(expected[name])}" for name in wrong],
        f"{folder} holds weights of another shape than its config asks for",
        f"get the {CONFIG} that belongs to them.",
    )


def _refuse(names: Sequence[str], fault: str, remedy: str) -> None:
    if names:
        count = f", {len(names)} in all" if len(names) > 1 else ""
        raise ValueError(f"{fault} ({names[0]}{count}); {remedy}")


def _expected(folder: Path, config: EmoConfig, released: bool) -> dict[str, Shape]:
    """Names and shapes of the config's tensors: of each expert, as released, or fused."""
    try:
        with torch.device("meta"):
            weights = EmoForCausalLM(config).state_dict()
    except Exception as error:  # torch and transformers have many for impossible sizes
        raise ValueError(
            f"{folder / CONFIG} describes no model ({last_line(error)}); copy it again."
        ) from error
    shapes: dict[str, Shape] = {}
    for name, weight in weights.items():
        match = _FUSED.fullmatch(name) if released else None
        shapes |= _unfused(match, tuple(weight.shape)) if match else {name: tuple(weight.shape)}
    return shapes


def _unfused(match: re.Match[str], shape: Shape) -> dict[str, Shape]:
    """A fused tensor of all experts of a layer as the released ones of each."""
    num_experts, rows, columns = shape
    parts = {"down": (rows, columns)}
    if match[2] == "gate_up":
        parts = dict.fromkeys(("gate", "up"), (rows // 2, columns))
    return {
        f"{match[1]}{expert}.{part}_proj.weight": part_shape
        for expert in range(num_experts)
        for part, part_shape in parts.items()
    }
