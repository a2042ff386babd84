"""The tokens table: rows made of a recording, and a recording made of rows; shares of experts.

Shapes: L layers, T tokens, K expert slots a token (of the layer that has most), R routed experts.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from emo_viz.trace.recorded import Recorded, TokenRouting
from emo_viz.trace.schema import TracedModel

NO_EXPERT = -1


def activation(expert_ids: np.ndarray, model: TracedModel, all_recorded: bool = True) -> np.ndarray:
    """Share of tokens that chose each routed expert: ids [L, T, K] -> [L, R].

    Rows sum to the layer's slots; the id -1 stands for none. Unless `all_recorded`, a token without
    any expert in a layer is one that was not looked at, and is not counted there.
    """
    layers, tokens, _ = expert_ids.shape
    chosen = expert_ids.astype(np.int64)
    flat = (chosen + np.arange(layers)[:, None, None] * model.num_routed_experts)[chosen >= 0]
    counts = np.bincount(flat, minlength=layers * model.num_routed_experts)
    counted: int | np.ndarray = tokens
    if not all_recorded:
        counted = np.maximum((chosen >= 0).any(axis=2).sum(axis=1), 1)[:, None]
    by_layer: np.ndarray = counts.reshape(layers, model.num_routed_experts) / counted
    return by_layer


def shares(weights: np.ndarray) -> np.ndarray:
    """[L, R] scaled so that the experts of each layer sum to 1; a layer of zeros stays as it is."""
    sums = weights.sum(axis=1, keepdims=True)
    scaled: np.ndarray = weights / np.where(sums > 0, sums, 1)
    return scaled


def token_rows(
    document: int,
    texts: Sequence[str] | None,
    recording: Recorded,
    clusters: np.ndarray | None,
    model: TracedModel,
    schema: pa.Schema,
) -> tuple[pa.RecordBatch, bool]:
    """The rows of one document, and whether any slot is empty; what is None becomes null."""
    count = recording.expert_ids.shape[1]
    ids = _by_token(recording.expert_ids, model)
    weights, loss = recording.gate_weights, recording.loss
    columns = {
        "document": np.full(count, document),
        "position": np.arange(count),
        "token_id": recording.token_ids,
        "text": None if texts is None else pa.array(texts, pa.string()),
        # from_pandas: the NaN of the opening EOS becomes null, so that SQL averages leave it out.
        "loss": None if loss is None else pa.array(loss, pa.float32(), from_pandas=True),
        "entropy": None if recording.entropy is None else recording.entropy.T,
        "expert_ids": ids,
        "gate_weights": None if weights is None else _by_token(weights, model),
        "cluster": clusters,
    }
    arrays = [_column(columns[field.name], field.type, count) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema), bool((ids < 0).any())


def _by_token(values: np.ndarray, model: TracedModel) -> np.ndarray:
    """[L, T, K] without the slots that a layer lacks: [T, slots of all layers]."""
    layers = [by_slot[:, :slots] for by_slot, slots in zip(values, model.slots, strict=True)]
    return np.concatenate(layers, axis=1)


def _column(values: "np.ndarray | pa.Array | None", kind: pa.DataType, count: int) -> pa.Array:
    """A column of the tokens table; a [T, n] array becomes one list of n values a token."""
    if values is None:
        return pa.nulls(count, kind)
    if isinstance(values, pa.Array):
        return values
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values.astype(kind.to_pandas_dtype()), kind)
    flat = values.reshape(-1)
    whole = pa.types.is_integer(kind.value_type)
    empty = flat < 0 if whole and (flat < 0).any() else None
    inner = pa.array(flat.astype(kind.value_type.to_pandas_dtype()), kind.value_type, mask=empty)
    return pa.FixedSizeListArray.from_arrays(inner, kind.list_size)


def token_routing(table: pa.Table, model: TracedModel, opening_eos: bool) -> TokenRouting:
    """A document's rows of the tokens table in the shapes of a recording.

    Columns that are not in the table, or null in it, are None. Without an opening EOS an empty
    place stands for it.
    """
    pad = 0 if opening_eos else 1
    ids = _lists(table, "expert_ids", NO_EXPERT)
    assert ids is not None, "every token has its list of experts"
    weights, entropy = (_lists(table, name, np.nan) for name in ("gate_weights", "entropy"))
    by_layer = _by_layer(ids, model, NO_EXPERT)
    if weights is not None:
        weights = _by_layer(np.where(ids < 0, 0, weights), model, 0).astype(np.float32)
    if entropy is not None:
        entropy = _after(entropy.astype(np.float32).T, pad, np.nan, axis=1)
    return TokenRouting(
        expert_ids=_after(by_layer.astype(np.int32), pad, NO_EXPERT, axis=1),
        token_ids=_numbers(table, "token_id", pad, NO_EXPERT, np.int64),
        gate_weights=None if weights is None else _after(weights, pad, 0, axis=1),
        entropy=entropy,
        loss=_numbers(table, "loss", pad, np.nan, np.float32),
    )


def _after(values: np.ndarray, pad: int, fill: float, axis: int) -> np.ndarray:
    """Values after `pad` empty places."""
    widths = [(pad, 0) if number == axis else (0, 0) for number in range(values.ndim)]
    return np.pad(values, widths, constant_values=fill)


def _by_layer(values: np.ndarray, model: TracedModel, fill: float) -> np.ndarray:
    """[T, slots of all layers] -> [L, T, K]."""
    slots = model.slots
    out = np.full((len(slots), len(values), max(slots)), fill, values.dtype)
    start = 0
    for layer, count in enumerate(slots):
        out[layer, :, :count] = values[:, start : start + count]
        start += count
    return out


def _lists(table: pa.Table, name: str, fill: float) -> np.ndarray | None:
    """A column of lists as [T, n]; None if it is not there for these rows."""
    if name not in table.column_names or table[name].null_count:
        return None
    column = table[name].combine_chunks()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    flat = np.concatenate([_filled(chunk.flatten(), fill) for chunk in chunks])
    return flat.reshape(len(table), -1)


def _filled(values: pa.Array, fill: float) -> np.ndarray:
    array: np.ndarray = values.to_numpy(zero_copy_only=False)
    if pa.types.is_integer(values.type):
        empty = np.asarray(values.is_null())
        whole = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
        array = np.where(empty, int(fill), whole)
    return array


def _numbers(table: pa.Table, name: str, pad: int, fill: float, kind: type) -> np.ndarray | None:
    """A column of numbers as [T]; None if it is not there for these rows."""
    if name not in table.column_names or table[name].null_count == len(table):
        return None
    column = table[name].to_pandas().fillna(fill).to_numpy(kind)
    return _after(column, pad, fill, axis=0)
