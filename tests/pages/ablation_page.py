"""What the tests of the subset ablation page read from it, and work out beside it."""

import re

import numpy as np
from streamlit.testing.v1 import AppTest

from model.run.inference import record
from model.run.subset import ExpertSubset, apply_subset
from tests.pages.opened import follow_link

PAGE = "pages/3_Subset_ablation.py"


def opened(**params: str) -> AppTest:
    return follow_link(PAGE, **params)


def words(at: AppTest) -> str:
    """All that the page says in words."""
    parts = [*at.markdown, *at.caption, *at.info, *at.warning, *at.error]
    return "\n".join(part.value for part in parts)


def table(at: AppTest) -> dict[str, list[str]]:
    """The numbers of the chosen document by model label: full loss, cut, change, worse tokens."""
    line = re.compile(
        r"\*\*(.+)\*\*: (.+) → (.+) nats a token \(\*\*(.+)\*\*\), (.+) of tokens worse"
    )
    found = [line.fullmatch(part.value) for part in at.markdown]
    return {match[1]: list(match.groups()[1:]) for match in found if match}


def losses(model, token_ids: np.ndarray, subset: ExpertSubset | None = None) -> np.ndarray:
    """Losses of a document without EOS, worked out beside the app."""
    if subset is None:
        return record(model, token_ids).loss[1:]
    with apply_subset(model, subset):
        return record(model, token_ids).loss[1:]
