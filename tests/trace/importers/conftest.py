"""Small files of every form, as their tools write them, all of the same routing."""

import base64
import gzip
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

TOKENS, LAYERS, SLOTS, EXPERTS = 20, 3, 2, 8


class Example:
    """One text of 20 tokens: ids and weights [T, L, K] by falling weight, and their logits."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.logits = rng.normal(size=(TOKENS, LAYERS, EXPERTS)).astype(np.float16)
        scores = np.exp(self.logits.astype(np.float32))
        scores /= scores.sum(axis=2, keepdims=True)
        order = np.argsort(-self.logits, axis=2)
        self.ids = order[:, :, :SLOTS].astype(np.int32)
        self.weights = np.take_along_axis(scores, self.ids, axis=2)
        self.token_ids = np.arange(100, 100 + TOKENS)
        self.counts = np.stack(
            [np.bincount(self.ids[:, layer].ravel(), minlength=EXPERTS) for layer in range(LAYERS)]
        )


EXAMPLE = Example()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def vllm(folder: Path) -> Path:
    """An answer with the ids of its 8 prompt and 12 completion tokens, the last without a row."""
    choice = {
        "index": 0,
        "text": " and so on",
        "token_ids": EXAMPLE.token_ids[8:].tolist(),
        "routed_experts": text64(npy(EXAMPLE.ids[:-1].astype(np.uint8))),
    }
    answer = {
        "id": "cmpl-1",
        "model": "Qwen/Qwen3-30B-A3B",
        "prompt_token_ids": EXAMPLE.token_ids[:8].tolist(),
        "choices": [choice],
    }
    return written(folder / "vllm.jsonl", json.dumps(answer) + "\n")


def vllm_021(folder: Path) -> Path:
    """Prompt and completion apart as nested lists, in one JSON text over several lines."""
    answer = {
        "id": "cmpl-2",
        "model": "m",
        "prompt_routed_experts": EXAMPLE.ids[:8].tolist(),
        "choices": [{"index": 0, "routed_experts": EXAMPLE.ids[8:].tolist()}],
    }
    return written(folder / "vllm_021.json", json.dumps(answer, indent=1))


def array(folder: Path) -> Path:
    np.save(folder / "array.npy", EXAMPLE.ids.astype(np.int16))
    return folder / "array.npy"


def arrays(folder: Path) -> Path:
    np.savez_compressed(
        folder / "arrays.npz",
        topk_ids=EXAMPLE.ids,
        topk_weights=EXAMPLE.weights,
        input_ids=EXAMPLE.token_ids,
    )
    return folder / "arrays.npz"


def sglang(folder: Path) -> Path:
    answer = {
        "text": " and so on",
        "output_ids": EXAMPLE.token_ids[8:].tolist(),
        "meta_info": {
            "id": "request-1",
            "prompt_tokens": 8,
            "completion_tokens": 12,
            "routed_experts": text64(EXAMPLE.ids[:-1].astype("<i4").tobytes()),
        },
    }
    return written(folder / "sglang.json", json.dumps(answer))


def verifiers(folder: Path) -> Path:
    payload = {
        "encoding": "base64",
        "dtype": "int16",
        "shape": [TOKENS, LAYERS, SLOTS],
        "data": text64(EXAMPLE.ids.astype("<i2").tobytes()),
    }
    return written(folder / "verifiers.jsonl", json.dumps({"routed_experts": payload}))


def emo(folder: Path) -> Path:
    """Two documents, of 12 and 8 tokens."""
    folder = folder / "emo"
    folder.mkdir()
    np.save(folder / "embeddings_logits.npy", EXAMPLE.logits.reshape(TOKENS, -1))
    np.save(folder / "documents.npy", EXAMPLE.token_ids.astype(np.int32))
    np.save(folder / "doc_boundaries.npy", np.array([0, 12, TOKENS]))
    info = {
        "num_layers": LAYERS,
        "num_standard_experts": EXPERTS,
        "routed_top_k": SLOTS,
        "model_path": "models/emo-hf",
    }
    (folder / "info.json").write_text(json.dumps(info))
    with gzip.open(folder / "metadata_docs.jsonl.gz", "wt") as file:
        for number, source in enumerate(("dclm", "wiki")):
            file.write(json.dumps({"doc_index": number, "source": source}) + "\n")
    return folder


def olmoe(folder: Path) -> Path:
    window = {
        "input_ids": EXAMPLE.token_ids.tolist(),
        "predicted_token_ids": EXAMPLE.token_ids.tolist(),
        "exp_ids": EXAMPLE.ids.transpose(0, 2, 1).tolist(),
    }
    return written(folder / "c4_results.jsonl", json.dumps(window) + "\n")


def sglang_counts(folder: Path) -> Path:
    """Two steps that add up to the counts, and one that the buffer had room for."""
    half = EXAMPLE.counts // 2
    steps = np.stack([half, EXAMPLE.counts - half, np.zeros_like(half)]).astype(np.int32)
    content = {
        "rank": 0,
        "logical_count": torch.from_numpy(steps),
        "average_utilization_rate_over_window": None,
    }
    torch.save(content, folder / "expert_distribution_recorder_1.pt")
    return folder / "expert_distribution_recorder_1.pt"


PHYSICAL = np.array([[1, 0, 2, 3, 4, 5, 6, 7, 0, 1]] * LAYERS)


def sglang_tokens(folder: Path) -> Path:
    """A prompt of 8 tokens, then a token a batch; ids of ten physical experts in eight columns."""
    physical = np.array([1, 0, 2, 3, 4, 5, 6, 7])[EXAMPLE.ids]
    padded = np.full((LAYERS, TOKENS, 8), -1, np.int32)
    padded[:, :, :SLOTS] = physical.transpose(1, 0, 2)
    spans = [(0, 8), *((place, place + 1) for place in range(8, TOKENS))]
    records = [
        {
            "forward_pass_id": number,
            "input_ids": EXAMPLE.token_ids[start:stop].tolist(),
            "positions": list(range(start, stop)),
            "extend_seq_lens": [8] if number == 0 else None,
            "forward_mode": 1 if number == 0 else 2,
            "topk_ids_of_layer": torch.from_numpy(padded[:, start:stop].copy()),
            "misc_objects": [],
        }
        for number, (start, stop) in enumerate(spans)
    ]
    content = {"records": records, "last_physical_to_logical_map": torch.from_numpy(PHYSICAL)}
    torch.save(content, folder / "expert_distribution_recorder_1_0.pt")
    return folder / "expert_distribution_recorder_1_0.pt"


def reap(folder: Path) -> Path:
    content = {
        layer + 1: {
            "total_tokens": torch.tensor(TOKENS),
            "expert_frequency": torch.from_numpy(EXAMPLE.counts[layer].copy()),
            "pairwise_expert_frequency": torch.zeros(EXPERTS, EXPERTS),
        }
        for layer in range(LAYERS)
    }
    torch.save(content, folder / "observations.pt")
    return folder / "observations.pt"


def gguf(tensors: dict[str, np.ndarray]) -> bytes:
    """A GGUF file as llama-imatrix writes it: fields of several types, float32 tensors."""

    def string(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    fields = [
        string("general.type") + struct.pack("<I", 8) + string("imatrix"),
        string("imatrix.datasets") + struct.pack("<IIQ", 9, 8, 1) + string("calibration.txt"),
        string("imatrix.chunk_count") + struct.pack("<II", 4, 7),
    ]
    table, data = b"", b""
    for name, tensor in tensors.items():
        axes = tensor.shape[::-1]
        table += string(name) + struct.pack(f"<I{len(axes)}Q", len(axes), *axes)
        table += struct.pack("<IQ", 0, len(data))
        data += tensor.astype("<f4").tobytes()
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join(fields) + table
    return head + b"\0" * (-len(head) % 32) + data


def imatrix(folder: Path) -> Path:
    tensors = {"blk.0.attn_q.weight.counts": np.array([[7.0]])}
    for layer in range(LAYERS):
        for part in ("gate", "up", "down"):
            name = f"blk.{layer}.ffn_{part}_exps.weight"
            tensors[f"{name}.in_sum2"] = np.ones((EXPERTS, 4))
            tensors[f"{name}.counts"] = EXAMPLE.counts[layer].reshape(EXPERTS, 1)
    return written(folder / "imatrix.gguf", gguf(tensors))


def csv_counts(folder: Path) -> Path:
    rows = [f"{layer},{expert},{n}" for (layer, expert), n in np.ndenumerate(EXAMPLE.counts)]
    return written(folder / "counts.csv", "\n".join(["layer_id,expert_id,count", *rows]) + "\n")


def csv_choices(folder: Path) -> Path:
    rows = [f"{layer},{expert}" for (_, layer, _), expert in np.ndenumerate(EXAMPLE.ids)]
    return written(folder / "moe_trace.csv", "\n".join(["layer,expert", *rows]) + "\n")


def flame(folder: Path) -> Path:
    """An iteration's folder, layers 2 to 4, with the token ids two folders above."""
    layers = folder / "flame-moe-290m" / "actives" / "iter_5473"
    samples = folder / "flame-moe-290m" / "samples"
    layers.mkdir(parents=True)
    samples.mkdir()
    for layer in range(LAYERS):
        columns = {
            "scores": pa.array(EXAMPLE.weights[:, layer].tolist(), pa.list_(pa.float16(), SLOTS)),
            "indices": pa.array(EXAMPLE.ids[:, layer].tolist(), pa.list_(pa.int16(), SLOTS)),
        }
        file = layers / f"layer_{layer + 2:02d}.parquet"
        pq.write_table(pa.table(columns), file, row_group_size=7)
    ids = EXAMPLE.token_ids.astype(np.int32)
    pq.write_table(pa.table({"token_id": ids[:15]}), samples / "000.parquet")
    pq.write_table(pa.table({"token_id": ids[15:]}), samples / "001.parquet")
    return layers


def flame_lines(folder: Path) -> Path:
    rows = [
        {"token_id": int(token), "indices": ids.tolist(), "scores": weights.tolist()}
        for token, ids, weights in zip(
            EXAMPLE.token_ids, EXAMPLE.ids[:, 0], EXAMPLE.weights[:, 0], strict=True
        )
    ]
    return written(folder / "flame.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def megatron(folder: Path) -> Path:
    rows = [
        {
            "step": step,
            "stage": "pre_dispatch",
            "block": "decoder",
            "layer": layer,
            "rank": 0,
            "num_tokens": 10,
            "topk": SLOTS,
            "top_indices": EXAMPLE.ids[10 * step : 10 * step + 10, layer].tolist(),
        }
        for step in range(2)
        for layer in range(LAYERS)
    ]
    rows.append({**rows[0], "block": "mtp", "mtp_idx": 0})
    file = folder / "router_trace_rank0.jsonl"
    return written(file, "".join(json.dumps(row) + "\n" for row in rows))


def atlas(folder: Path) -> Path:
    activations = [
        {
            "layer": layer,
            "token_idx": token,
            "expert_idx": int(expert),
            "gate_weight": float(EXAMPLE.weights[token, layer, slot]),
        }
        for (token, layer, slot), expert in reversed(list(np.ndenumerate(EXAMPLE.ids)))
    ]
    content = {
        "model_id": "allenai/OLMoE-1B-7B",
        "num_layers": LAYERS,
        "num_experts": EXPERTS,
        "top_k": SLOTS,
        "text": "so it goes",
        "token_strs": [f"w{number}" for number in range(TOKENS)],
        "activations": activations,
    }
    return written(folder / "atlas.json", json.dumps(content, indent=1))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Each writer, and the options that its file needs.
FORMS: dict[str, tuple[Callable[[Path], Path], dict[str, int]]] = {
    "vllm": (vllm, {}),
    "vllm_021": (vllm_021, {}),
    "array": (array, {}),
    "arrays": (arrays, {}),
    "sglang": (sglang, {"top_k": SLOTS}),
    "verifiers": (verifiers, {}),
    "emo": (emo, {}),
    "olmoe": (olmoe, {}),
    "sglang_counts": (sglang_counts, {}),
    "sglang_tokens": (sglang_tokens, {}),
    "reap": (reap, {}),
    "imatrix": (imatrix, {}),
    "csv_counts": (csv_counts, {}),
    "csv_choices": (csv_choices, {}),
    "flame": (flame, {}),
    "flame_lines": (flame_lines, {}),
    "megatron": (megatron, {}),
    "atlas": (atlas, {}),
}


@pytest.fixture(scope="session")
def example() -> Example:
    return EXAMPLE


@pytest.fixture(scope="session")
def forms() -> dict[str, tuple[Callable[[Path], Path], dict[str, int]]]:
    """Name of a form -> (writer into a folder, options of read_routing that its file needs)."""
    return FORMS


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the example in a named form."""
    return lambda name: FORMS[name][0](tmp_path)


@pytest.fixture
def gguf_bytes() -> Callable[[dict[str, np.ndarray]], bytes]:
    return gguf


@pytest.fixture
def npy_text() -> Callable[[np.ndarray], str]:
    """An array as the base64 of an .npy file."""
    return lambda table: text64(npy(table))
