"""Subset ablation page: what every expert is worth on texts, to first order; kept by document."""

from collections.abc import Sequence

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.server.library import LoadedModel
from emo_viz.ui.parts.work import run_exclusive


def of(loaded: LoadedModel, documents: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Estimated nats a token that each routed expert saves, over all tokens: [L, R].

    Raises ValueError for a model that has no such estimate.
    """
    parts = [_one(loaded, loaded.key, document) for document in documents]
    tokens = [len(document) - 1 for document in documents]
    mean: NDArray[np.float64] = np.average(parts, axis=0, weights=tokens)
    return mean


@st.cache_resource(max_entries=1024, show_spinner="Going back through the model …")
def _one(_loaded: LoadedModel, key: str, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    from model.run.importance import expert_importance

    with run_exclusive(_loaded):
        return expert_importance(_loaded.live, [token_ids])
