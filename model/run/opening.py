"""Opening a checkpoint of any family to read texts: its routers, tokenizer and opening token.

EMO's own checkpoints go through `model.run.loading`, which looks at them more closely; all others
through `model.families.opening`. Neither ever runs code that a checkpoint brings along.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model.families import RoutedModel, routed
from model.families.opening import device_of, local_folder, open_model
from model.fields import LENGTHS
from model.files import VOCABULARIES, check_tokenizer, inside, read_json
from model.run.checkpoint import CONFIG, last_line
from model.run.loading import load_model, load_tokenizer

# What decides how a text becomes tokens, beside the weights of a checkpoint.
TOKENIZER_FILES = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)


@dataclass(frozen=True)
class Opened:
    """A checkpoint ready to read texts.

    name: the folder's, or on the hub the repository's. folder: where it lies here.
    """

    name: str
    folder: Path
    model: RoutedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def opening(self) -> int | None:
        """The token that is put before every text: see `opening_token`."""
        return opening_token(self.tokenizer, self.model)


def open_checkpoint(
    source: str, device: str = "cpu", dtype: str = "float32", max_tokens: int = 2
) -> Opened:
    """A checkpoint folder or a name on the Hugging Face hub, in eval mode on a device.

    max_tokens: of the longest text that it is to take, tried before anything is loaded.

    Raises ValueError for what cannot be found, read, or held in the device's memory, for a model
    without routers, and for a checkpoint without a tokenizer.
    """
    folder = local_folder(source)
    name = folder.resolve().name if Path(source).exists() else source.rpartition("/")[2]
    config = read_json(inside(folder, CONFIG))
    check_length(config, max_tokens)
    is_emo = config.get("model_type") == "emo"
    target = device_of(device)
    tokenizer = load_tokenizer(folder) if is_emo else open_tokenizer(folder)
    if is_emo and target is not None:
        model = _open_emo(folder, target, dtype)
    else:
        model = open_model(str(folder), device, dtype)
    return Opened(name, folder, model, tokenizer)


def _open_emo(folder: Path, device: torch.device, dtype: str) -> RoutedModel:
    loaded = load_model(folder, dtype, device)
    if loaded.config.objective == "dense":
        raise ValueError(
            f"{folder.resolve().name} is a dense model and has no routers; name an EMO or MoE "
            "model."
        )
    return routed(loaded)


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint folder, of any family; code in the folder is never run.

    Raises ValueError if there is none, it is damaged, or it cannot say where tokens lie in a text.
    """
    check_tokenizer(folder)  # transformers would make one without a word in it
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(
            f"The tokenizer in {folder} cannot be read ({last_line(error)}); copy it again, or "
            "save it as a plain tokenizer.json."
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer in {folder} cannot say where its tokens lie in a text; save it in the "
            "fast form (tokenizer.json)."
        )
    return tokenizer


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of the files that decide how a text becomes tokens, config.json among them."""
    names = {file.name for pattern in TOKENIZER_FILES for file in folder.glob(pattern)} | {CONFIG}
    digest = hashlib.sha256()
    for name in sorted(names):
        path = inside(folder, name)
        if path.is_file():
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + path.read_bytes())
    return digest.hexdigest()


def opening_token(tokenizer: PreTrainedTokenizerBase, model: RoutedModel) -> int | None:
    """The token that is put before every text, so that the text's first token has a loss too.

    EMO's is its end-of-text token. Others': the special token that the tokenizer itself puts first,
    else its beginning-of-text token, else the config's, else the end-of-text token, which separates
    the documents that such models were trained on; None if there is none of these.
    """
    eos = tokenizer.eos_token_id
    if model.family == "emo":
        return int(eos)
    config: Any = model.model.config
    told = config.get_text_config()
    first = _put_first(tokenizer)
    known = len(model.model.get_input_embeddings().weight)  # type: ignore[operator]
    choices = (first, tokenizer.bos_token_id, told.bos_token_id, eos, told.eos_token_id)
    return next((each for each in choices if isinstance(each, int) and 0 <= each < known), None)


def _put_first(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that a tokenizer puts before a text of its own accord."""
    plain, whole = (tokenizer("a", add_special_tokens=on)["input_ids"] for on in (False, True))
    added = len(whole) > len(plain) and list(whole[: len(plain)]) != list(plain)
    return int(whole[0]) if added else None


def check_length(config: Mapping[str, Any], max_tokens: int) -> None:
    """ValueError unless a model of this config can take texts of so many tokens, two at least."""
    longest = longest_text(config)
    if max_tokens < 2 or (longest is not None and max_tokens > longest):
        limits = "at least 2" if longest is None else f"within 2 and {longest}"
        raise ValueError(f"{max_tokens} tokens a document are not {limits}.")


def longest_text(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model of this config can take; None where it does not say."""
    told = config.get("text_config")
    told = told if isinstance(told, dict) else config
    return next((told[name] for name in LENGTHS if isinstance(told.get(name), int)), None)
