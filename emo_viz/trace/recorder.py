"""What of a model and of its documents goes into a trace."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from emo_viz.trace.documents import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from emo_viz.trace.schema import TracedModel

if TYPE_CHECKING:
    from torch import nn

    from model.run.recording import Recorder


def check_max_tokens(model: "nn.Module", max_tokens: int) -> None:
    """ValueError unless the model can take documents of this length, EOS and one token at least."""
    from model.run.opening import check_length

    config: Any = model.config
    check_length(config.to_dict(), max_tokens)


def traced_model(recorder: "Recorder", name: str, checkpoint_sha256: str) -> TracedModel:
    """What a reader must know of the model; layers without a router are there, with no experts."""
    layers = recorder.routed.layers
    config: Any = recorder.routed.model.config
    shared = max(layer.num_shared for layer in layers)
    counts, slots = [0] * recorder.num_layers, [0] * recorder.num_layers
    for place, layer in zip(recorder.places, layers, strict=True):
        counts[place] = layer.num_routed + shared
        slots[place] = min(layer.num_chosen, layer.num_routed)
    is_emo = recorder.routed.family == "emo"
    top_k = config.num_experts_per_tok if is_emo else max(slots) + shared
    usual = [min(top_k - shared, max(0, count - shared)) for count in counts]
    return TracedModel(
        name=name,
        objective=config.objective if is_emo else "unknown",
        num_layers=recorder.num_layers,
        num_experts=max(counts),
        num_shared_experts=shared,
        num_experts_per_tok=top_k,
        checkpoint_sha256=checkpoint_sha256,
        num_experts_per_layer=None if len(set(counts)) == 1 else tuple(counts),
        slots_per_layer=None if slots == usual else tuple(slots),
    )


def rows(documents: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The columns that a trace keeps, a document at a time; missing values are left out."""
    columns = [c for c in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if c in documents.columns]
    for values in documents[columns].itertuples(index=False, name=None):
        row = {c: v for c, v in zip(columns, values, strict=True) if not pd.isna(v)}
        yield {c: int(v) if c == "part" else str(v) for c, v in row.items()}
