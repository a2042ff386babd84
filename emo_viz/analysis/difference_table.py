"""Two routings as tables: the tokens that differ most, and every token for export."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from emo_viz.analysis.difference import Difference, Ids, Pair, token_difference


class Placed(Protocol):
    """What is needed of a `Pair`, or of its `difference_stream.Head`, to name its tokens."""

    @property
    def id(self) -> str: ...
    @property
    def places(self) -> Ids: ...


def most_different(found: Difference, pairs: Sequence[Placed], most: int) -> pd.DataFrame:
    """The `most` tokens with the least overlap, those of larger loss differences first.

    Columns: document, position (the first token of a text is 1), overlap (mean over the layers),
    first (index of the first layer that differs), weight and loss (NaN where a run has none).
    Tokens that nothing sets apart are not among them.
    """
    parts = [
        pd.DataFrame(
            {
                "document": pair.id,
                "position": pair.places + 1,
                "overlap": each.overlap,
                "first": each.first,
                "weight": np.nan if each.weight is None else each.weight,
                "loss": np.nan if each.loss is None else each.loss,
            }
        )
        for pair, each in zip(pairs, found.summaries, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    table = table[table["first"] < len(found.layers)]
    keys = pd.DataFrame({"overlap": table["overlap"].round(6), "size": -table["loss"].abs()})
    return table.loc[keys.sort_values(["overlap", "size"], kind="stable").index[:most]]


def all_tokens(
    pairs: Sequence[Pair],
    names: Sequence[int],
    runs: tuple[str, str],
    texts: Callable[[str], Sequence[str]],
) -> Iterator[pd.DataFrame]:
    """A table for each document, one row a token: its text, the losses of both runs, and by layer
    both choices of experts (separated by spaces), the overlap and the gate weight that moved.

    names: of the layers. runs: what names their columns. texts: of a document, of each token.
    """
    return (_rows(pair, names, runs, texts(pair.id)) for pair in pairs)


def by_layer(found: Difference, names: Sequence[int]) -> pd.DataFrame:
    """One row a layer: shares of tokens and of experts with their 95 % intervals over the
    documents, chance, the gate weight that moved, and the share of tokens that part there first.

    names: of the layers.
    """
    rows = []
    for name, layer, parts in zip(names, found.layers, found.first_layer, strict=False):
        row: dict[str, float] = {"layer": name}
        for what in ("same", "shared", "overlap", "weight"):
            value = getattr(layer, what)
            ends = (np.nan,) * 3 if value is None else (value.mean, value.low, value.high)
            row |= dict(zip((what, f"{what}_low", f"{what}_high"), ends, strict=True))
        chance = {"chance_shared": layer.chance_shared, "chance_overlap": layer.chance_overlap}
        rows.append(row | chance | {"parts_first": float(parts)})
    return pd.DataFrame(rows)


def _rows(
    pair: Pair, names: Sequence[int], runs: tuple[str, str], texts: Sequence[str]
) -> pd.DataFrame:
    found = token_difference(pair)
    sides = dict(zip(runs, (pair.first, pair.second), strict=True))
    columns: dict[str, object] = {
        "document": pair.id,
        "position": pair.places + 1,
        "token": [texts[place] for place in pair.places],
        "overlap": found.overlap.mean(1),
    }
    for run, side in sides.items():
        columns[f"loss_nats_{run}"] = np.nan if side.loss is None else side.loss
    for layer, name in enumerate(names):
        for run, side in sides.items():
            columns[f"experts_{name}_{run}"] = _chosen(side.expert_ids[:, layer])
        columns[f"overlap_{name}"] = found.overlap[:, layer]
        columns[f"weight_moved_{name}"] = np.nan if found.weight is None else found.weight[:, layer]
    return pd.DataFrame(columns)


def _chosen(ids_TK: np.ndarray) -> list[str]:
    """The experts of each token in their order, those of empty slots left out."""
    return [" ".join(str(expert) for expert in row if expert >= 0) for row in ids_TK.tolist()]
