"""Home: a sample of the token map that Document clusters draws, small enough to be sent at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.origins import Origins
from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.token_map import load_token_map
from emo_viz.server import assets, library
from emo_viz.ui.parts import freshness

MOST = 1200  # tokens


@dataclass(frozen=True, eq=False)
class Sampled:
    """By run id the places [N, 2] of N tokens, and the domain of each; what they are made from.

    version: another one for any other content.
    """

    version: str
    places: Mapping[str, NDArray[np.float32]]
    domains: NDArray[np.str_]
    origins: Origins


def tokens(runs: Comparison) -> Sampled | None:
    """As many tokens of each domain; None where there is no map of these runs and documents."""
    path = assets.measured_path("token_map.npz", runs.ids)
    try:
        documents = library.documents(runs.ids)
        key = assets.content(path, library.documents_path(runs.ids))
        found = _sampled(path, key, documents["domain"])
        freshness.check("The token maps", found.origins)
    except (ValueError, library.Missing):
        return None
    return found if set(runs.ids) <= found.places.keys() else None


@st.cache_resource(max_entries=2, show_spinner=False)
def _sampled(path: Path, key: str, _domains: pd.Series) -> Sampled:
    whole = load_token_map(path)
    if whole.sample.documents.max(initial=0) >= len(_domains):
        raise ValueError("The token map is of other documents.")
    if not len(whole.sample.documents):
        raise ValueError("The token map has no tokens.")
    domains = _domains.to_numpy(str)[whole.sample.documents]
    rows = _even(domains)
    places = {run: own[rows] for run, own in whole.places.items()}
    return Sampled(key, places, domains[rows], whole.origins)


def _even(domains: NDArray[np.str_]) -> NDArray[np.int64]:
    """Rows of as many items of each domain, MOST in all, in an order that hides none of them."""
    mixed = pd.Series(np.random.default_rng(0).permutation(len(domains)))
    each = mixed.groupby(domains[mixed])
    kept = mixed[each.cumcount() < max(1, MOST // each.ngroups)]
    return kept.to_numpy()[:MOST]
