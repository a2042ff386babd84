"""What every view of the domains page is given, and what they say alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from emo_viz.analysis.runs import Comparison
from emo_viz.ui.parts import export
from emo_viz.ui.parts.known import Known
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.words import count

ALL = "All layers"


@dataclass(frozen=True)
class View:
    """runs: those that are shown. known, keys: by run id, what is known of its experts and what
    caches of its recording go by. headline, controls: containers at the top."""

    runs: Comparison
    known: Mapping[str, Known]
    keys: Mapping[str, str]
    headline: Any
    controls: Any

    def say(self, sentence: str, beside: str) -> None:
        """The answer in one line of Markdown, and what to see it beside."""
        with self.headline:
            st.markdown(f"## {sentence}")
            if beside:
                st.caption(beside)

    def explain(self, how: str) -> None:
        """How it was measured, in Markdown, and from what."""
        with st.expander("How it was measured"):
            st.markdown(f"{how} {self.source}")

    def export(
        self, name: str, charts: Mapping[str, str], tables: Mapping[str, export.Table]
    ) -> None:
        """What the view shows, beside its controls."""
        export.offer(
            f"domains {name}",
            self.runs,
            charts=charts,
            tables=tables,
            shown=self.source,
            place=self.controls,
        )

    @property
    def source(self) -> str:
        """From how many documents and tokens."""
        uses = [known.use for known in self.known.values()]
        sizes = {(use.documents, round(use.weights.sum())) for use in uses}
        if len(sizes) > 1:
            return "Each from its own recording."
        documents, tokens = sizes.pop()
        return f"{count(documents, 'document')}, {count(tokens, 'token')}."

    def layer(self, every: bool = True) -> int | None:
        """The layer that is chosen, by its own number; None for all of them.

        every: whether all together can be chosen; else the first is chosen at first.
        """
        sparse = [
            {n for n, routed in zip(use.numbers, use.routed, strict=True) if routed}
            for use in (known.use for known in self.known.values())
        ]
        numbers = [str(number) for number in sorted(set.intersection(*sparse))]
        options = [ALL, *numbers] if every or not numbers else numbers
        chosen = links.select(self.controls, "Layer", options, routes.DOMAINS_LAYER, width=140)
        return None if chosen == ALL else int(chosen)

    def place(self, run: str, number: int | None) -> int | None:
        """Of a layer in the arrays of a run."""
        return None if number is None else self.known[run].use.place(number)


def where(number: int | None) -> str:
    """ "in layer 2", or "mean over layers"."""
    return "mean over layers" if number is None else f"in layer {number}"
