"""Two routings as tables: the tokens that differ most, and every token for export."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from emo_viz.analysis.difference import Difference, Pair, token_difference


def most_different(found: Difference, pairs: Sequence[Pair], most: int) -> pd.DataFrame:
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
    texts: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """One row a token: its text, the losses of both runs, and by layer both choices of experts
    (separated by spaces), the overlap and the gate weight that moved.

    names: of the layers. runs: ids, which name the columns. texts: by document, of each token.
    """
    return pd.concat([_rows(pair, names, runs, texts[pair.id]) for pair in pairs])


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
