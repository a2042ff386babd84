"""Subset ablation page: what its numbers rest on, out of the way until somebody asks."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import streamlit as st

from emo_viz.analysis.curves import OTHER_DOMAIN, RANDOM, Measured
from emo_viz.figures.kept import beside
from emo_viz.server import commands
from emo_viz.ui.ablation import lines, sizes, writing
from emo_viz.ui.ablation.controls import FIELD, NO_CURVES, TOKEN, about_keep
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import BY_WORTH, METHOD_WORDS, WORTH_HERE, Choice, Study
from emo_viz.ui.parts import unseen
from emo_viz.ui.parts.reading import absent_of, say_absent
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import routes, slots
from emo_viz.ui.shell.words import count, escape_markdown, rest_cut


def explain(study: Study, choice: Choice, found: Measured | None, live: Live) -> None:
    """What was measured of all documents, what was computed now, and what the words mean."""
    with st.expander("How it was measured", icon=":material/straighten:"):
        if choice.method in BY_WORTH:
            st.markdown(
                "**All documents.** No curves are measured of experts chosen by importance: "
                f"here they are {METHOD_WORDS[choice.method]}."
            )
        elif found is None:
            command = commands.curves(study.runs.ids)
            st.markdown(
                f"{NO_CURVES}. {f'`{command}`' if command else 'The Library'} measures them."
            )
        else:
            st.markdown(_all_documents(study, choice, found))
            _table(study, choice, found)
        st.markdown(_this_document(study, choice, live))
        st.markdown(
            "Likelihood kept is e to the minus the loss increase a token: the share of a token's "
            "likelihood that is left. Over 100 %, the subset predicts better than all experts."
        )
        st.markdown(f"{about_keep(study)} {sizes.MODELLED} {writing.in_words(live)}")
    for loaded in study.models:
        say_absent(tuple(absent_of(loaded)))


def _all_documents(study: Study, choice: Choice, found: Measured) -> str:
    keep = escape_markdown(lines.keep(study, choice.keep_k))
    losses = in_each(study.runs, lambda run: f"{found.full_loss(run).mean:.3f}")
    spans = lines.spans_at(study, choice, found, choice.keep_k)
    if spans is None:
        lost = f"The curve has no measured point at {choice.keep_k}."
    else:
        increases = in_each(
            study.runs,
            lambda run: f"{spans[run].mean:+.3f} ({spans[run].low:+.3f} to {spans[run].high:+.3f})",
        )
        lost = (
            f"Loss increase with {keep} over all experts in nats a token, 95 % interval over "
            f"documents: {increases}."
        )
    return (
        f"**{escape_markdown(lines.whose(choice))}.** {lost} With all experts, in nats a token: "
        f"{losses}. "
        f"{_rests_on(study, choice, found.table, len(found.cells.tokens))}"
    )


def _table(study: Study, choice: Choice, found: Measured) -> None:
    """The points of the curve: what the picture shows, for who cannot see it."""
    make = partial(_points, found.table, choice.method, study.runs.labels)
    shown = beside(found, ("table", choice.method, study.runs.names), make)
    alt = "The points of the curves of loss by experts kept"
    st.dataframe(shown, hide_index=True, height=180, key="subset_points", alt=alt)


def _points(table: pd.DataFrame, method: str, labels: Mapping[str, str]) -> pa.Table:
    """As the browser takes it: what pandas holds is turned into it at every drawing."""
    rows = table[table["method"] == method]
    shown = pd.DataFrame(
        {
            "Run": [labels[run] for run in rows["model"]],
            "Experts kept": rows["keep_k"],
            "Loss increase (nats a token)": rows["increase"].round(3),
            "95 % from": rows["increase_low"].round(3),
            "to": rows["increase_high"].round(3),
        }
    )
    return pa.Table.from_pandas(shown, preserve_index=False)


def _this_document(study: Study, choice: Choice, live: Live) -> str:
    lost = in_each(
        study.runs,
        lambda run: f"{np.nanmean(live.full[run]):.3f} to {np.nanmean(live.cut[run]):.3f}",
    )
    cut = rest_cut(live.shown.cut_tokens + live.dropped)
    whose = f" {_whose_experts(choice, live)}" if choice.is_own else ""
    origin = f" {escape_markdown(live.shown.origin)}." if live.shown.origin else ""
    return (
        f"**This document.** Computed now, {count(live.num_tokens, 'token')}{cut}: loss in nats a "
        f"token {lost}.{whose}{origin}"
    )


def _rests_on(study: Study, choice: Choice, points: pd.DataFrame, domains: int) -> str:
    """What chose the experts and what was evaluated, in words."""
    seeds = beside(points, "seeds", lambda: _seeds(points))
    drawn = seeds and choice.method != RANDOM
    band = (
        f"Grey: least to greatest of {seeds} random subsets, dashed their mean. " if drawn else ""
    )
    new = unseen.in_a_sentence(choice.only_new).rstrip(", ")
    told = f"{new[:1].upper()}{new[1:]}. " if new else ""
    mean = told + ("" if choice.domain else f"Mean over {count(domains, 'domain')}. ")
    return (
        f"{_chosen_on(study, choice, seeds)} {mean}Coloured band: 95 % interval, bootstrap over "
        f"the held-out documents. {band}Dotted, open marks: the document shown."
    )


def _chosen_on(study: Study, choice: Choice, seeds: int) -> str:
    if choice.method == RANDOM:
        return f"Experts are drawn at random, {seeds} times."
    looked_at = [choice.domain] if choice.domain else study.domains
    numbers = sorted({len(study.calibration_ids(domain)) for domain in looked_at})
    number = " to ".join(str(n) for n in dict.fromkeys([numbers[0], numbers[-1]]))
    whose = "the domain"
    if choice.method == OTHER_DOMAIN:
        other = study.other(choice.domain) if choice.domain else None
        whose = f"another domain ({escape_markdown(other)})" if other else "another domain"
    return (
        f"Experts are chosen on {number} calibration documents of {whose}, none of them evaluated."
    )


def _seeds(points: pd.DataFrame) -> int:
    """How many random subsets stand behind each random point; 0 if none was measured."""
    return max(points.loc[points["method"] == RANDOM, "seeds"], default=0)


def routing_link(choice: Choice) -> None:
    """To the same text, and the same token, on the page of its routing."""
    token: int | None = st.session_state.get(TOKEN)
    st.page_link(
        routes.ROUTING,
        label="Token routing of this text",
        icon=":material/alt_route:",
        query_params=slots.params()
        | (
            routes.routing_of_text(FIELD.in_link(choice.text), token)
            if choice.is_own
            else routes.routing_of_document(choice.document, token)
        ),
    )


def _whose_experts(choice: Choice, live: Live) -> str:
    """A text of one's own has no domain: how it came to one."""
    if choice.method == RANDOM:
        return "Its experts are drawn at random."
    if choice.method == WORTH_HERE:
        return "Its experts are those of the highest importance on it."
    domain = f"**{escape_markdown(live.domain)}**"
    if choice.domain is not None:
        return f"Its experts are those of {domain}, as chosen above."
    return (
        f"Its experts are those of {domain}, whose favourites {name(live.runs.first)} uses most on "
        "this text. Another domain can be chosen above."
    )
