"""Clusters page: what is highlighted; the rest recedes, and nothing changes its colour."""

from collections.abc import Sequence
from typing import Any

from emo_viz.ui.shell import links

ALL_DOMAINS = "All domains"
MOST_HIGHLIGHTED = 10


def highlight(
    place: Any, label: str, options: Sequence[str], all_of_them: str, key: str
) -> tuple[str, ...]:
    """Names to highlight, none for all of them; also in the address."""
    what = label.removeprefix("Highlight").strip().removesuffix("s") or "domain"
    return links.several(
        place,
        what,
        label,
        options,
        MOST_HIGHLIGHTED,
        key,
        placeholder=all_of_them,
        width=320,
    )
