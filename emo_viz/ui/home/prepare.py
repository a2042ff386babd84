"""Home: what its first visitor would wait for, found as the server starts (see serve.py)."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from emo_viz.analysis.runs import Comparison
from emo_viz.server import library
from emo_viz.ui.home import documents, look, page, sampled, stories


def steps() -> Iterator[Callable[[], Any]]:
    """In small steps what the page shows to a visitor who has chosen nothing; none without runs."""
    with suppress(library.Missing, ValueError, OSError):
        runs = library.default()
        yield partial(look.stored, runs)
        yield partial(sampled.tokens, runs)
        yield partial(stories.offered, runs)
        yield partial(documents.prepare, runs)
        for card in page.CARDS:
            yield partial(_find, card, runs)


def _find(card: page.Card, runs: Comparison) -> None:
    page.chart(runs, card.find(runs, False))
