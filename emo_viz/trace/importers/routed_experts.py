"""Expert ids that an inference engine returns with its answer: vLLM, SGLang, verifiers, arrays.

The engines agree on [tokens, layers, k] and on little else: vLLM 0.20 returns one array, 0.21 the
prompt's and each choice's apart as nested lists, later versions a base64 .npy; SGLang returns
base64 int32 without a shape, verifiers a shape beside the base64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emo_viz.trace.importers.imported import NO_EXPERT, ImportedDocument, Lazy, Options, Raw, Source
from emo_viz.trace.importers.reading import (
    MAX_LAYERS,
    NPY_MAGIC,
    Records,
    bad,
    base64_bytes,
    float_array,
    int_array,
    npy_bytes,
    read_npy,
    read_npz,
    times,
)

KEY = "routed_experts"
PROMPT_KEY = "prompt_routed_experts"
NPY_TEXT = "k05VTV"  # how an .npy file begins in base64
# Where SGLang puts what the OpenAI answer has no place for.
NESTS = ("meta_info", "sgl_ext", "message")
ID_NAMES = (KEY, "expert_ids", "topk_ids", "topk_indices")
WEIGHT_NAMES = ("gate_weights", "topk_weights", "routing_weights")
TOKEN_NAMES = ("token_ids", "input_ids")


def is_response(record: Mapping[str, Any]) -> bool:
    """Whether a JSON object is the answer of an engine, with or without expert ids."""
    payload = {"encoding", "dtype", "shape", "data"} <= record.keys()
    named = {KEY, PROMPT_KEY, "choices", "meta_info", "sgl_ext"} & record.keys()
    return payload or bool(named)


def read_responses(path: Path, options: Options) -> Source:
    """Answers of an engine, one object a line, one object, or a list; a document for each choice.

    Raises ValueError if none holds expert ids, or one holds them damaged or without a shape.
    """
    records = Records(path)
    reader = _Reader(path, options)
    places, without = [], 0
    for number, record in enumerate(records):
        for choice in range(len(_choices(record))):
            if reader.holds(record, choice):
                places.append((number, choice))
            else:
                without += 1
    if not places:
        raise bad(
            path,
            f"holds answers without {KEY}",
            "ask the server to return them (vLLM: --enable-return-routed-experts)",
        )

    def make(index: int) -> Raw:
        number, choice = places[index]
        return reader.document(records[number], number, choice)

    first = make(0).document.expert_ids
    model = records[places[0][0]].get("model")
    return Source(
        kind=_kind(records[places[0][0]]),
        model=model if isinstance(model, str) else None,
        layers=tuple(range(first.shape[1])),
        documents=Lazy(len(places), make),
        notes=(f"{times(without, 'answer')} without {KEY} left out.",) if without else (),
    )


def _kind(record: Mapping[str, Any]) -> str:
    found = next(filter(None, (_find(choice, record) for choice in _choices(record))), None)
    if isinstance(found, dict):
        return "verifiers"
    return "sglang" if isinstance(found, str) and not found.startswith(NPY_TEXT) else "vllm"


def _choices(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The answers in a record; a record without choices is one itself."""
    choices = record.get("choices")
    if not isinstance(choices, list):
        return [record]
    return [choice for choice in choices if isinstance(choice, dict)]


def _find(choice: Mapping[str, Any], record: Mapping[str, Any]) -> object:
    """The expert ids of a choice, wherever the engine puts them."""
    for holder in (choice, record):
        for nest in (holder, *(holder.get(name) for name in NESTS)):
            if isinstance(nest, dict) and nest.get(KEY) is not None:
                return nest[KEY]
    bare = {"encoding", "dtype", "shape", "data"} <= record.keys()
    return record if bare else None


@dataclass(frozen=True)
class _Tokens:
    """What an answer says of its tokens: ids where both parts have them, counts where known."""

    prompt: np.ndarray | None
    completion: np.ndarray | None
    total: int | None

    @property
    def ids(self) -> np.ndarray | None:
        if self.prompt is None or self.completion is None:
            return None
        return np.concatenate([self.prompt, self.completion])


class _Reader:
    """Turns one choice of one record into a document."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self.options = path, options

    def holds(self, record: Mapping[str, Any], choice: int) -> bool:
        found = _find(_choices(record)[choice], record)
        return found is not None or record.get(PROMPT_KEY) is not None

    def document(self, record: Mapping[str, Any], number: int, index: int) -> Raw:
        choice = _choices(record)[index]
        tokens = self._tokens(choice, record)
        parts = [record.get(PROMPT_KEY) or choice.get(PROMPT_KEY), _find(choice, record)]
        arrays, notes = [], []
        for what, part in zip((PROMPT_KEY, KEY), parts, strict=True):
            if part is not None:
                array, told = self._decoded(part, what, tokens)
                arrays.append(array)
                notes.extend(told)
        if len({array.shape[1:] for array in arrays}) != 1:
            raise bad(self.path, "has layers or experts that differ between prompt and completion")
        ids, token_ids, padded, told = self._aligned(np.concatenate(arrays), tokens)
        document = ImportedDocument(
            id=self._name(record, number, index),
            expert_ids=ids,
            text=_text(choice, record) if len(arrays[0]) else None,
            token_ids=token_ids,
        )
        return Raw(document, tuple(dict.fromkeys([*notes, *told])), padded)

    def _name(self, record: Mapping[str, Any], number: int, index: int) -> str:
        nest = record.get("meta_info")
        name = record.get("id") or (nest.get("id") if isinstance(nest, dict) else None)
        name = name if isinstance(name, str) else f"response-{number}"
        return f"{name}/{index}" if len(_choices(record)) > 1 else name

    def _tokens(self, choice: Mapping[str, Any], record: Mapping[str, Any]) -> _Tokens:
        nest = choice.get("meta_info") or record.get("meta_info")
        nest = nest if isinstance(nest, dict) else {}
        prompt = self._ids((choice, record), ("prompt_token_ids", "input_ids"))
        completion = self._ids(
            (choice, record),
            ("token_ids", "output_ids", "output_token_ids", "completion_token_ids"),
        )
        usage = record.get("usage") if len(_choices(record)) == 1 else None
        counts = nest if "prompt_tokens" in nest else usage
        total = None
        if isinstance(counts, dict):
            both = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
            known = [number for number in both if isinstance(number, int) and number >= 0]
            total = sum(known) if len(known) == 2 else None
        if prompt is not None and completion is not None:
            total = len(prompt) + len(completion)
        return _Tokens(prompt, completion, total)

    def _ids(
        self, holders: tuple[Mapping[str, Any], ...], names: tuple[str, ...]
    ) -> np.ndarray | None:
        for holder in holders:
            for name in names:
                if holder.get(name) is not None:
                    return int_array(holder[name], self.path, name, 1)
        return None

    def _decoded(self, payload: object, what: str, tokens: _Tokens) -> tuple[np.ndarray, list[str]]:
        """[rows, layers, k] int32 and what to tell of it."""
        if isinstance(payload, str):
            data = base64_bytes(payload, self.path, what)
            if data.startswith(NPY_MAGIC):
                array = npy_bytes(data, self.path, what)
            else:
                array = self._shapeless(data, tokens)
        elif isinstance(payload, dict):
            array = self._with_shape(payload, what)
        else:
            array = np.asarray(int_array(payload, self.path, what, 3))
        return expert_ids(array, self.path, what, self.options)

    def _shapeless(self, data: bytes, tokens: _Tokens) -> np.ndarray:
        """SGLang's int32, whose layers and k the caller knows or the number of tokens tells."""
        top_k, layers = self.options.top_k, self.options.num_layers
        size = len(data) // 4
        if len(data) % 4:
            raise bad(self.path, f"holds {KEY} that are no whole int32: they are cut short")
        if layers is None and top_k and tokens.total and tokens.total > 1:
            layers = size // ((tokens.total - 1) * top_k)
        if not top_k or not layers:
            raise bad(self.path, f"gives {KEY} without their shape", "name top_k and num_layers")
        if size % (layers * top_k):
            raise bad(
                self.path,
                f"holds {size} expert ids, not a multiple of {layers} layers x {top_k}",
                "name the right num_layers and top_k",
            )
        return np.frombuffer(data, "<i4").reshape(-1, layers, top_k)

    def _with_shape(self, payload: Mapping[str, Any], what: str) -> np.ndarray:
        """verifiers' {encoding, dtype, shape, data}."""
        dtype, shape, data = (payload.get(name) for name in ("dtype", "shape", "data"))
        if payload.get("encoding") != "base64" or not isinstance(data, str):
            raise bad(self.path, f"holds {what} in another encoding than base64")
        if dtype not in ("uint8", "int8", "uint16", "int16", "int32", "int64"):
            raise bad(self.path, f"holds {what} of type {str(dtype)[:20]!r}", "int16 is expected")
        sizes = int_array(shape, self.path, f"the shape of {what}", 1).tolist()
        raw = base64_bytes(data, self.path, what)
        kind = np.dtype(dtype).newbyteorder("<")
        if len(sizes) != 3 or min(sizes) < 0:
            raise bad(self.path, f"holds {what} of shape {sizes[:4]}", "three axes are expected")
        if sizes[0] * sizes[1] * sizes[2] * kind.itemsize != len(raw):
            raise bad(self.path, f"holds {len(raw)} bytes of {what} for the shape {sizes}")
        return np.frombuffer(raw, kind).reshape(sizes)

    def _aligned(
        self, ids: np.ndarray, tokens: _Tokens
    ) -> tuple[np.ndarray, np.ndarray | None, int, list[str]]:
        """Ids with a row for every token, the tokens, how many rows were added, what to tell."""
        rows, total, known = len(ids), tokens.total, tokens.ids
        done = tokens.completion
        if total is None or rows == total:
            return ids, known, 0, []
        if rows == total - 1 and known is not None:
            return _longer(ids), known, 1, []
        if rows == total - 1:
            return ids, None, 0, ["the last token has no experts, and no row here"]
        if done is not None and len(done) - rows in (0, 1):
            padded = len(done) - rows
            told = ["only the completion's tokens have rows, the prompt's are missing"]
            return (_longer(ids) if padded else ids), done, padded, told
        raise bad(self.path, f"holds {rows} rows of expert ids for {total} tokens")


def _longer(ids: np.ndarray) -> np.ndarray:
    """With one more row, of empty slots."""
    return np.concatenate([ids, np.full((1, *ids.shape[1:]), NO_EXPERT, np.int32)])


def _text(choice: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """Prompt and completion, only where the answer holds both."""
    prompt = record.get("prompt_text", record.get("prompt"))
    message = choice.get("message")
    answer = message.get("content") if isinstance(message, dict) else choice.get("text")
    both = isinstance(prompt, str) and isinstance(answer, str)
    return f"{prompt}{answer}" if both else None


def expert_ids(
    array: np.ndarray, path: Path, what: str, options: Options
) -> tuple[np.ndarray, list[str]]:
    """Any array of expert ids as int32 [T, L, K], and a note if its bytes may be too few.

    Raises ValueError for another number of axes, for fractions, and for bytes that must have
    wrapped around.
    """
    ids = int_array(array, path, what, 3)
    if ids.shape[1] > MAX_LAYERS:
        raise bad(path, f"holds {ids.shape[1]} layers in {what}", "[tokens, layers, k] is expected")
    if array.dtype not in (np.uint8, np.int8) or not ids.size:
        return ids, []
    most = 256 if array.dtype == np.uint8 else 128
    if options.num_experts and options.num_experts > most:
        raise bad(
            path,
            f"keeps ids of {options.num_experts} experts in one byte, where {most} fit",
            "have them recorded as int16",
        )
    if options.num_experts is None and int(ids.max()) == most - 1:
        return ids, [
            f"ids fill one byte up to {most - 1}; with more than {most} experts they have wrapped"
        ]
    return ids, []


def read_array(path: Path, options: Options) -> Source:
    """An .npy or .npz file of expert ids [tokens, layers, k].

    An .npz is one document if it names its ids (routed_experts, expert_ids, topk_ids,
    topk_indices), with token ids and gate weights beside them; else each of its arrays is one.
    """
    with path.open("rb") as file:
        single = file.read(len(NPY_MAGIC)) == NPY_MAGIC
    arrays = {path.stem: read_npy(path)} if single else read_npz(path)
    named = next((name for name in ID_NAMES if name in arrays), None)
    names = list(arrays) if named is None else [named]
    if not names:
        raise bad(path, "holds no arrays")
    documents = []
    for name in names:
        ids, told = expert_ids(arrays[name], path, repr(name), options)
        document = ImportedDocument(id=name if named is None else path.stem, expert_ids=ids)
        documents.append(Raw(document, tuple(told)))
    if named is not None:
        documents = [_beside(documents[0], arrays, path)]
    layers = tuple(range(documents[0].document.expert_ids.shape[1]))
    return Source(kind="array", layers=layers, documents=tuple(documents))


def _beside(raw: Raw, arrays: Mapping[str, np.ndarray], path: Path) -> Raw:
    """The document with the token ids and gate weights that stand beside it in an .npz."""
    tokens = next((arrays[name] for name in TOKEN_NAMES if name in arrays), None)
    weights = next((arrays[name] for name in WEIGHT_NAMES if name in arrays), None)
    ids, padded = raw.document.expert_ids, 0
    if tokens is not None:
        tokens = int_array(tokens, path, "token ids", 1)
        padded = int(len(tokens) == len(ids) + 1)
    if weights is not None:
        weights = float_array(weights, path, "gate weights", 3)
        if padded:
            weights = np.concatenate([weights, np.zeros((1, *weights.shape[1:]), np.float32)])
    document = ImportedDocument(
        id=raw.document.id,
        expert_ids=_longer(ids) if padded else ids,
        token_ids=tokens,
        gate_weights=weights,
    )
    return Raw(document, raw.notes, padded)
