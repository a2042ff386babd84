"""Clusters page: the recorded documents of the runs, and whether they can be clustered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.alignment import contingency
from emo_viz.analysis.families import families, mean_routing
from emo_viz.analysis.profiles import WordTable, word_table
from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.vectors import flatten_usage
from emo_viz.figures.clusters import Group, colour_groups, family_groups
from emo_viz.server import commands, library
from emo_viz.trace import absent
from emo_viz.ui.parts import freshness, together
from emo_viz.ui.parts.freshness import OUT_OF_DATE
from emo_viz.ui.parts.reader import loss_column
from emo_viz.ui.shell import missing
from emo_viz.ui.shell.words import count, escape_markdown

if TYPE_CHECKING:
    from emo_viz.trace import Trace

DESCRIBING: tuple["absent.Part", ...] = ("domain", "text")
NOT_KNOWN = "not known"
FEWEST = 2  # clusters
FIRST_WORDS = 60  # characters of them


@dataclass(frozen=True, eq=False)
class Data:
    """The recorded documents, the same in all traces, and what is shared by every view.

    traces: by run id, in the order of `runs`. documents: also the mean loss in each run
    (`reader.loss_column`). version: another one for any other content of the traces.
    """

    runs: Comparison
    traces: "Mapping[str, Trace]"
    documents: pd.DataFrame
    domains: list[str]
    version: str

    @cached_property
    def words(self) -> WordTable:
        """Which document holds which word."""
        return word_table(self.documents["text"].tolist())

    @cached_property
    def families(self) -> dict[str, int]:
        """The family of each domain, which is its colour on every map."""
        rows = flatten_usage(self.traces[self.runs.first.id].usage)
        return families(self.domains, mean_routing(self.domains, rows))

    def families_of(self, names: Sequence[str], domains: Sequence[str]) -> dict[str, int]:
        """The family of each of the names [N] of items of these domains [N]: that of the domain
        which most of its items are of."""
        found, _, counts = contingency(names, domains)
        known = np.unique(np.asarray(domains))
        return {
            str(name): self.families[str(known[row.argmax()])]
            for name, row in zip(found, counts, strict=True)
        }

    def groups(self, names: Sequence[str], domains: Sequence[str]) -> list[Group]:
        """The looks of groups of items by name [N], each in the colour of its domains' family."""
        if not self.has_domains:
            return colour_groups(names)
        return family_groups(names, self.families_of(names, domains))

    @property
    def provenance(self) -> str:
        """What an image of the maps says of where they are from."""
        digests = (self.traces[run.id].manifest.model.checkpoint_sha256[:12] for run in self.runs)
        named = (
            f"{run.label} ({digest or 'weights not known'})"
            for run, digest in zip(self.runs, digests, strict=True)
        )
        return f"EMO Viz · {' · '.join(named)} · {self.size}"

    @property
    def has_domains(self) -> bool:
        """Whether anything is known of what the documents are about."""
        return set(self.domains) != {NOT_KNOWN}

    @property
    def layers(self) -> list[int]:
        """The layers that can tell documents apart in every run: those of a single routed expert
        cannot. None where the runs have different numbers of layers."""
        if self.runs.why_not("layers"):
            return []
        widths = [self.traces[run].manifest.model.routed for run in self.runs.ids]
        fewest = [min(experts) for experts in zip(*widths, strict=True)]
        return [layer for layer, experts in enumerate(fewest) if experts > 1]

    @property
    def size(self) -> str:
        """ "1,104 documents, 269,935 tokens" """
        tokens = int(self.documents["n_tokens"].sum())
        return f"{count(len(self.documents), 'document')}, {count(tokens, 'token')}"


def load_data() -> Data:
    """The traces of the runs, one of them where they do not hold the same documents."""
    recorded = library.traces()
    together.say_unrecorded(recorded)
    _check_fresh(recorded)
    runs = together.shown(recorded.comparison, "documents")
    _say_lacking(recorded.traces.values())
    key = " ".join(library.trace_key(run) for run in runs.ids)
    return _data(f"{key} {runs}", runs, {run: recorded.traces[run] for run in runs.ids})


def _say_lacking(traces: "Iterable[Trace]") -> None:
    """In one line for each trace what of the documents it does not hold."""
    for trace in traces:
        lacking = [part for part in DESCRIBING if not trace.has(part)]
        if lacking:
            said = escape_markdown(absent.sentence(trace.path.name, *lacking))
            st.info(said, icon=":material/visibility_off:")


def check_enough(traces: "Iterable[Trace]") -> None:
    """Raises Missing unless there are documents to tell apart: counts alone are one."""
    for trace in traces:
        found, first = len(trace.usage), trace.usage[:1]
        if found < 2 * FEWEST or not any((row != first).any() for row in trace.usage):
            raise library.Missing(
                f"The trace {trace.path.name} holds {count(found, 'document')} of one routing; "
                f"clusters need {2 * FEWEST} documents or more that differ.",
                commands.RECORD.format(run=trace.path.name),
            )


def _check_fresh(recorded: library.Recorded) -> None:
    """Traces of other models end the page; of other documents they are shown, and it is said."""
    lines = commands.each(commands.RECORD, recorded.comparison.ids)
    for documents in (False, True):
        try:
            for run in recorded.comparison:
                origins = library.trace_origins(run.id, recorded.traces[run.id])
                freshness.check(f"The traces of {run.label}", origins, documents)
        except freshness.Stale as error:
            if documents:
                st.info(f"{error} This makes them: {missing.in_words(lines)}")
                return
            missing.empty_state(str(error), lines, OUT_OF_DATE)
            missing.end()


@st.cache_resource(max_entries=2, show_spinner="Reading the documents …")
def _data(key: str, _runs: Comparison, _traces: "Mapping[str, Trace]") -> Data:
    documents = _traces[_runs.first.id].documents.drop(columns="mean_loss")
    losses = {loss_column(run): _traces[run].documents["mean_loss"] for run in _runs.ids}
    documents = documents.assign(**losses)
    # What an import lacks: said by `_say_lacking`, and nothing that a view would fail on.
    documents = documents.fillna({"domain": NOT_KNOWN, "text": "", "source": NOT_KNOWN})
    return Data(_runs, _traces, documents, documents["domain"].tolist(), key)
