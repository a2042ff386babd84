"""Experts page: another expert, of either run, beside the one that is shown."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.experts import profile_overlap
from emo_viz.analysis.flow import expected_pairs
from emo_viz.figures import experts as figures
from emo_viz.figures.theme import CHART_CONFIG, colour_of
from emo_viz.ui.experts import contexts, effects
from emo_viz.ui.experts.state import form, kind, opener
from emo_viz.ui.parts import export
from emo_viz.ui.parts.known import Data, Known, Place
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.frame import sized
from emo_viz.ui.shell.words import escape_markdown, share

NARROWEST = 400
LOAD, ENTROPY = "Load (1 = even)", "Entropy over domains (nats)"
LOSS = "Loss without it (nats a token)"
_FORMS = {LOAD: "{:.2f}", ENTROPY: "{:.2f}", LOSS: "{:+.4f}"}


def choose(row: Any, data: Data, known: Known) -> tuple[Known, Place] | None:
    """In `row` which expert stands beside the one that is shown, if any, and the way to it."""
    other = data.known[_run(row, data, known.run.id)]
    which = kind(other, "none is beside it")
    links.enter(routes.EXPERT_OTHER, which, None)
    chosen: Place | None = row.selectbox(
        "Expert (layer.id)",
        other.places,
        index=None,
        format_func=form,
        placeholder="none",
        key=routes.EXPERT_OTHER,
        width=140,
    )
    links.leave(routes.EXPERT_OTHER, which, chosen, None)
    if chosen is None:
        return None
    row.button(
        "Open it",
        icon=":material/open_in_new:",
        key="experts_open_other",
        on_click=opener(other.run.id, chosen),
    )
    return other, chosen


def _run(row: Any, data: Data, own: str) -> str:
    """The run that the other expert is of."""
    ids = list(data.known)
    if len(ids) == 1:
        return own
    labels = {each: data.known[each].run.label for each in ids}
    return links.choice(
        row,
        "Compare with one of",
        ids,
        routes.EXPERT_OTHER_RUN,
        own,
        what="run of the expert beside it",
        said=str,
        format_func=labels.__getitem__,
    )


def show(known: Known, place: Place, other: Known, chosen: Place) -> None:
    """What both have in common."""
    both = ((known, place), (other, chosen))
    names = tuple(f"{one.run.label} {form(at)}" for one, at in both)
    if names[0] == names[1]:
        st.info("This is the same expert; choose another one.", icon=":material/compare_arrows:")
        return
    st.subheader(f"Beside {escape_markdown(names[1])}")
    st.markdown(" ".join(_said(known, place, other, chosen)))
    columns = dict(zip(names, both, strict=True))
    facts = pd.DataFrame({label: _facts(*one) for label, one in columns.items()})
    said = pd.DataFrame({label: _said_facts(own) for label, own in facts.items()})
    with st.grid(2, min_column_width=NARROWEST) as grid:
        with grid.cell():
            _profiles(known, place, other, chosen)
        with grid.cell():
            alt = "Both experts: load, entropy and loss without them"
            st.dataframe(said, height="content", row_height=28, alt=alt)
            for label, one in columns.items():
                st.markdown(f"**{escape_markdown(label)}**")
                contexts.enriched(*one)
    compared = bool(known.use.domains) and known.use.domains == other.use.domains
    export.offer(
        "two experts",
        dict.fromkeys([known.run, other.run]),
        charts={"By domain": "experts_profiles"} if compared else {},
        tables=dict(_tables(columns, facts, compared)),
        shown=" beside ".join(names),
    )


def _tables(
    columns: Mapping[str, tuple[Known, Place]], facts: pd.DataFrame, compared: bool
) -> Iterator[tuple[str, export.Table]]:
    """All that is shown of both, a column an expert. columns: both, by what they are called."""
    yield "Two experts", lambda: facts.rename_axis("fact").reset_index()
    if compared:
        yield "By domain", lambda: _by_domain(columns)
    for label, one in columns.items():
        if contexts.has_tokens(*one):
            yield f"Enriched tokens of {label}", partial(contexts.enriched_table, *one)


def _by_domain(columns: Mapping[str, tuple[Known, Place]]) -> pd.DataFrame:
    """How the choices of both divide over the domains, as shares of one."""
    domains = next(iter(columns.values()))[0].use.domains
    shares = {
        label: known.use.domain_shares[:, known.use.place(place[0]), place[1]]
        for label, (known, place) in columns.items()
    }
    return pd.DataFrame({"domain": domains, **shares})


def _said(known: Known, place: Place, other: Known, chosen: Place) -> list[str]:
    """What both have in common, in sentences."""
    said = []
    if known.use.domains and known.use.domains == other.use.domains:
        mine = known.use.domain_shares[:, known.use.place(place[0]), place[1]]
        shares = other.use.domain_shares
        theirs = shares[:, other.use.place(chosen[0]), chosen[1]]
        everyone = profile_overlap(mine, shares)[other.use.there]
        said.append(
            f"Their domains overlap by **{share(float(np.minimum(mine, theirs).sum()))}**; with "
            f"the median expert of {name(other.run)} it is {share(float(np.median(everyone)))}."
        )
    found = known.tokens
    if found is not None and other.tokens is found:
        one, two = found.place(place[0]), found.place(chosen[0])
        if one is not None and one == two:
            together = found.pairs[one][place[1], chosen[1]] / max(1, found.tokens)
            usual = expected_pairs(found.pairs[one])[place[1], chosen[1]] / max(1, found.tokens)
            said.append(
                f"**{share(float(together))}** of the tokens choose both; {share(float(usual))} "
                "if choices were independent."
            )
        elif one is not None and two is not None and abs(one - two) == 1:
            (first, source), (_, target) = sorted([(one, place[1]), (two, chosen[1])])
            mass = found.flow[first]
            flowing = float(mass[source, target] / max(1e-12, mass[source].sum()))
            usual = float(mass[:, target].sum() / max(1e-12, mass.sum()))
            said.append(
                f"**{share(flowing)}** of the gate weight of the first goes on to the second; "
                f"{share(usual)} of all tokens' does."
            )
    return said


def _profiles(known: Known, place: Place, other: Known, chosen: Place) -> None:
    if not known.use.domains or known.use.domains != other.use.domains:
        st.caption("They do not compare by domain: the recordings have different domains or none.")
        return
    mine = known.use.domain_shares[:, known.use.place(place[0]), place[1]]
    theirs = other.use.domain_shares[:, other.use.place(chosen[0]), chosen[1]]
    order = np.argsort(-(mine + theirs), kind="stable")
    names = (f"{known.run.label} {form(place)}", f"{other.run.label} {form(chosen)}")
    st.plotly_chart(
        sized(
            figures.two_profiles(
                names,
                (colour_of(known.run), colour_of(other.run)),
                [known.use.domains[d] for d in order],
                (mine[order], theirs[order]),
            )
        ),
        key="experts_profiles",
        config=CHART_CONFIG,
        alt="How the choices of both experts divide over the domains; the table beside it has "
        "their loads and tokens.",
    )


def _facts(known: Known, place: Place) -> pd.Series:
    """What is known of one expert, for a column of its own; NaN for an entropy of nothing."""
    use, layer = known.use, known.use.place(place[0])
    facts = {LOAD: float(use.times_even[layer, place[1]])}
    if use.domains:
        facts[ENTROPY] = float(use.entropy[layer, place[1]])
    measured = effects.of_one(known, place)
    if measured is not None:
        facts[LOSS] = measured.mean(*place)
    return pd.Series(facts)


def _said_facts(facts: pd.Series) -> pd.Series:
    """The same as the page says it."""
    return pd.Series(
        {
            fact: "none" if np.isnan(own) else _FORMS[str(fact)].format(own)
            for fact, own in facts.items()
        }
    )
