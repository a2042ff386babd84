"""Clusters page: what whole documents and single tokens have in common, and a tab for each."""

from collections.abc import Callable

import streamlit as st

from emo_viz.analysis.alignment import difference_interval
from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.tokens import Headline
from emo_viz.server.library import Missing
from emo_viz.ui.clusters import documents, documents_view, token_view, tokens
from emo_viz.ui.clusters.data import Data, load_data
from emo_viz.ui.parts.lazy_tabs import Tab, lazy_tabs
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import routes

ALIKE = 0.02  # NMI: less is no difference to speak of, however sure
NMI, NMI_EXPLAINED = "NMI ", "NMI, 1 if the clusters are the domains: "
TOKENS, DOCUMENTS = "Tokens", "Documents"  # in the address


def show() -> None:
    """The whole page below its title."""
    data = load_data()
    place = st.container()
    said = tokens.measured(data)
    with place:
        _headline(data, said)
    lazy_tabs(
        routes.CLUSTER_LEVEL,
        [
            Tab("Single tokens", lambda: token_view.show(data, said), TOKENS),
            Tab("Whole documents", lambda: documents_view.show(data), DOCUMENTS),
        ],
        "view",
    )


def _headline(data: Data, said: Headline | None) -> None:
    """Whose clusters follow the domains: a sentence on documents, and one on single tokens."""
    if not data.has_domains:
        return
    if len(set(data.domains)) == 1:
        st.markdown("## All documents are of one domain, so clusters cannot follow domains.")
        return
    parts = [of_documents(data)]
    if said:
        domain = {run: one.domain for run, one in said.runs.items()}
        parts.append(compared(data.runs, "Single tokens", domain.__getitem__, said.difference))
    told = " ".join(f"{part}." for part in parts if part)
    if told:
        st.markdown(f"## {told.replace(NMI, NMI_EXPLAINED, 1)}")


def of_documents(data: Data) -> str:
    """How whole documents cluster by domain in each run; "" where there are too few of them."""
    try:
        measured = documents.measured(data, documents.usual(data))
    except Missing:  # the tab of documents says it
        return ""
    pairs = [(one.nmi, one.influence) for one in measured.values()]
    difference = difference_interval(*pairs[0], *pairs[1]) if len(pairs) > 1 else None
    return compared(data.runs, "Whole documents", lambda run: measured[run].nmi, difference)


def compared(
    runs: Comparison,
    what: str,
    nmi: Callable[[str], Interval],
    difference: Interval | None,
) -> str:
    """ "Whole documents cluster by domain equally well in both (NMI 0.92 in A, 0.92 in B)"

    difference: the NMI of the first run less that of the second; None for one run alone.
    """
    values = ", ".join(f"**{nmi(run.id).mean:.2f}** in {name(run)}" for run in runs)
    shown = {f"{nmi(run.id).mean:.2f}" for run in runs}
    how = _how(runs, difference, exactly=len(shown) == 1)
    return f"{what} cluster by domain{how} ({NMI}{values})"


def _how(runs: Comparison, difference: Interval | None, exactly: bool) -> str:
    """How well, of two runs; "" of one alone. exactly: the numbers shown are the same."""
    if difference is None or runs.second is None:
        return ""
    if abs(difference.mean) < ALIKE or difference.low <= 0 <= difference.high:
        return " equally well in both" if exactly else " about equally well in both"
    return f" better in {name(runs.first if difference.mean > 0 else runs.second)}"
