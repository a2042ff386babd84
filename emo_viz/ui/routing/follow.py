"""Token routing page: the followed expert, which is a run's in one layer and in no other.

In the address "EMO L3 E62" is expert 62 of layer 3. "EMO 62", as older links have it, and "62" are
of the layer that is shown.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from emo_viz.ui.parts.heatmap import Follow
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.address import Kind

EXPERT = routes.ROUTING_EXPERT
_NAME = re.compile(r"(?:(.*) )?(?:L(\d{1,6}) E)?(\d{1,6})", re.DOTALL)


@dataclass(frozen=True)
class Experts:
    """Which experts there are. runs: labels by run id; numbers: what the layers are called;
    routed: experts of each layer, by run id.
    """

    runs: Mapping[str, str]
    numbers: Sequence[int]
    routed: Mapping[str, Sequence[int]]

    def name(self, follow: Follow) -> str:
        """As lists and the address have it."""
        return f"{self.runs[follow.run]} L{follow.layer} E{follow.expert}"

    def label(self, name: str) -> str:
        """A name as the list shows it: what is cut off where it is narrow is the run, never the
        expert."""
        run, _, rest = name.rpartition(" L")
        return f"L{rest}, {run}" if len(self.runs) > 1 else f"L{rest}"

    def parse(self, text: str, shown: int) -> Follow:
        """The expert of a name; without a layer, of the one `shown`; without a run, of the only
        one. Raises ValueError for none."""
        found = _NAME.fullmatch(text)
        if not found:
            raise ValueError
        alone = next(iter(self.runs.values())) if len(self.runs) == 1 else ""
        label = found[1] or alone
        run = next((id for id, own in self.runs.items() if own == label), None)
        if run is None:
            raise ValueError
        follow = Follow(run, shown if found[2] is None else int(found[2]), int(found[3]))
        if follow.layer not in self.numbers:
            raise ValueError
        if follow.expert >= self.routed[run][list(self.numbers).index(follow.layer)]:
            raise ValueError
        return follow

    def of_layer(self, number: int) -> list[str]:
        """The names of a layer's experts."""
        place = list(self.numbers).index(number)
        return [
            self.name(Follow(run, number, expert))
            for run in self.runs
            for expert in range(self.routed[run][place])
        ]


def choose(experts: Experts, shown: int) -> Follow | None:
    """The list of the shown layer's experts, and the one that is followed, whatever its layer."""
    kind = _kind(experts, shown)
    links.enter(EXPERT, kind, None)
    options, chosen = experts.of_layer(shown), st.session_state[EXPERT]
    if chosen is not None and chosen not in options:
        options = [chosen, *options]
    name: str | None = st.selectbox(
        "Expert to follow",
        options,
        index=None,
        key=EXPERT,
        format_func=experts.label,
        placeholder="none",
        width=210,
        help="Underlines every token that uses it, and marks its column. L3 E62 is expert 62 of "
        "layer 3; the expert 62 of another layer is another one.",
    )
    links.leave(EXPERT, kind, name, None)
    return None if name is None else experts.parse(name, shown)


def _kind(experts: Experts, shown: int) -> Kind[str]:
    def parse(text: str) -> str:
        return experts.name(experts.parse(text, shown))

    def fits(name: str) -> bool:
        try:
            return parse(name) == name
        except ValueError:
            return False

    return Kind(
        parse=parse,
        form=str,
        fits=fits,
        sentence="The link asks for the expert {asked}, which is not here; none is chosen.",
    )
