"""Opening any mixture-of-experts checkpoint that transformers can load: a folder or a hub name.

Weights come from safetensors alone, no code of a checkpoint is run, and nothing is loaded that
cannot fit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging as transformers_logging

from model.families.registry import routed
from model.families.routed import RoutedModel
from model.families.sizes import check_fits
from model.files import no_checkpoint, read_json, weight_files

DTYPES = ("float32", "bfloat16", "float16")
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def open_model(source: str, device: str = "cpu", dtype: str = "float32") -> RoutedModel:
    """A model in eval mode on a device, as its routers.

    `source` is a checkpoint folder or a name on the Hugging Face hub; `device` is one of torch's,
    or "auto" to spread a large model over all there are. Raises ValueError for what cannot be
    found, read, or held in memory, and for a model without routers.
    """
    folder = local_folder(source)
    config = config_of(folder)
    check_experts(folder, config)
    target = device_of(device)
    weight_files(folder)
    check_fits(folder, target, dtype_of(dtype))
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    placing: dict[str, Any] = {"device_map": "auto"} if target is None else {}
    try:
        with transformers_alone():
            loaded, report = loader.from_pretrained(
                folder,
                dtype=dtype_of(dtype),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **placing,
            )
    except Exception as error:  # of whatever the checkpoint asks for: quantisers, kernels, ..
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{folder} cannot be loaded ({said}); copy the checkpoint again, or install what it "
            "names."
        ) from error
    _check_weights(folder, loaded, report)
    return routed((loaded if target is None else loaded.to(target)).eval())


_ALONE = RLock()


@contextmanager
def transformers_alone() -> Iterator[None]:
    """One thread at a time builds models, without the bar: commands draw their own.

    transformers sets torch's default dtype for the whole process and then the one it found before:
    of two that overlap the second would find, and leave behind for ever, the first one's.
    """
    with _ALONE:
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                transformers_logging.enable_progress_bar()


def local_folder(source: str) -> Path:
    """Where a checkpoint lies; one on the hub is downloaded to the Hugging Face cache first.

    Raises ValueError if it is neither a folder nor to be had from the hub.
    """
    if Path(source).exists() or source.count("/") != 1 or source.startswith((".", "/", "~")):
        if (Path(source) / "config.json").is_file():
            return Path(source)
        raise no_checkpoint(Path(source))
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except Exception as error:  # the hub's errors, and those of whatever transport it has
        raise ValueError(
            f"{source} is no folder here and could not be had from the Hugging Face hub "
            f"({type(error).__name__}); check the name and the network, or copy it to a folder."
        ) from error


def config_of(folder: Path) -> Any:
    """A checkpoint's config. Raises ValueError for one that transformers does not know."""
    kind = read_json(folder / "config.json").get("model_type")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"The config of {folder} (model_type {kind!r}) is not one that the installed "
            "transformers can read; update transformers, or check the file."
        ) from error


def check_experts(folder: Path, config: Any) -> None:
    """Said before a dense model is loaded: every config of a model with routers names experts.

    Raises ValueError for one that names none.
    """
    told = str(config.to_dict()).lower()
    if "expert" not in told and "moe" not in told:
        raise ValueError(
            f"{folder} has no experts in its config (model_type {config.model_type!r}); name a "
            "mixture-of-experts model."
        )


def _check_weights(folder: Path, loaded: torch.nn.Module, report: Any) -> None:
    """Weights that are not in the files would be random numbers, and nobody would notice."""
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise ValueError(
            f"{folder} lacks weights that its config asks for ({lacking[0]}, {len(lacking)} in "
            "all); copy the checkpoint again."
        )
    for name, weight in loaded.named_parameters():
        if weight.device.type != "meta" and not torch.isfinite(weight).all():
            raise ValueError(f"{folder}: {name} holds NaN or infinity; train the model again.")


def device_of(name: str) -> torch.device | None:
    """None for "auto". Raises ValueError for a device that is not there."""
    if name == "auto":
        return None
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # which a device without numbers ("meta") cannot
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"There is no device {name!r} here; choose cpu, cuda, cuda:1, .. or auto."
        ) from error
    return device


def dtype_of(name: str) -> torch.dtype:
    """Raises ValueError for a name that is none of DTYPES."""
    if name not in DTYPES:
        raise ValueError(f"{name!r} is no type to load in; choose {', '.join(DTYPES)}.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
