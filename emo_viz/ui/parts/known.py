"""What is known of the experts of the runs that are shown, for the pages about experts."""

from dataclasses import dataclass

import streamlit as st

from emo_viz.analysis.expert_tokens import ExpertTokens
from emo_viz.analysis.experts import ExpertUse
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.server import expert_facts, library
from emo_viz.server.library import Recorded
from emo_viz.trace.absent import Absent
from emo_viz.ui.parts import freshness, together
from emo_viz.ui.shell.words import escape_markdown

Place = tuple[int, int]
"""An expert of a run: the layer by the model's own number, and its id."""


@dataclass(frozen=True)
class Known:
    """What is known of one run's experts. said: Markdown on why it has no `tokens`, "" if it has
    or if they can simply be gathered."""

    run: Run
    use: ExpertUse
    tokens: ExpertTokens | None
    said: str = ""

    @property
    def places(self) -> list[Place]:
        """All experts, layer by layer."""
        layers = zip(self.use.numbers, self.use.routed, strict=True)
        return [(number, expert) for number, routed in layers for expert in range(routed)]


@dataclass(frozen=True)
class Data:
    """The runs that have something to say of their experts, and Markdown on those whose recordings
    do not."""

    recorded: Recorded
    known: dict[str, Known]
    left_out: tuple[str, ...]

    @property
    def runs(self) -> Comparison:
        """Those that are recorded."""
        return self.recorded.comparison

    def say_left_out(self) -> None:
        """Which runs are not shown, and why."""
        together.say_unrecorded(self.recorded)
        for sentence in self.left_out:
            st.info(sentence, icon=":material/visibility_off:")


def load() -> Data:
    """What is known of the runs that are shown. Raises Missing where none has a recording."""
    recorded = library.traces()
    known, said = dict[str, Known](), list[str]()
    for run in recorded.comparison:
        if run.id not in recorded.traces:
            continue
        try:
            use = expert_facts.use(run.id)
        except Absent as error:
            said.append(escape_markdown(str(error)))
            continue
        known[run.id] = Known(run, use, *_tokens(run))
    if not known:
        raise library.Missing(" ".join(recorded.left_out) or " ".join(said), "")
    return Data(recorded, known, tuple(said))


def _tokens(run: Run) -> tuple[ExpertTokens | None, str]:
    try:
        found = expert_facts.tokens(run)
        if found is not None:
            freshness.check("The tokens of the experts", found.origins)
    except freshness.Stale as error:
        return None, str(error)
    except ValueError as error:
        return None, escape_markdown(str(error))
    return found, ""
