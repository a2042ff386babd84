"""Subset ablation page: which experts stay, how they were chosen and on what."""

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.ablation import shared_share
from emo_viz.analysis.curves import OTHER_DOMAIN, RANDOM
from emo_viz.figures import ablation as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import library
from emo_viz.ui.ablation.live import Live, ranking
from emo_viz.ui.ablation.page import METHOD_WORDS, WORTH_HERE, Choice, Study
from emo_viz.ui.parts import export, opened
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell.words import count, escape_markdown, escape_plotly, share


def offer(study: Study, choice: Choice, live: Live) -> None:
    """Out of the way; nothing is computed before it is opened."""
    place = st.expander(
        "How the experts were chosen",
        icon=":material/help:",
        key="subset_how",
        on_change="rerun",
    )
    if opened.is_open(place):
        with place:
            _kept(study, choice, live)


def _kept(study: Study, choice: Choice, live: Live) -> None:
    """The kept experts, how they were chosen and on what."""
    shared = [study.config(run).num_shared_experts for run in study.runs.ids]
    st.markdown(
        f"**{escape_markdown(live.domain)}**, keep-k {choice.keep_k}: "
        f"{METHOD_WORDS[choice.method]}{', and the shared experts' * any(shared)}."
        f"{_by_hand(study, live)}"
    )
    st.plotly_chart(
        figures.kept_map(
            study.runs,
            {run: subset.experts for run, subset in live.subsets.items()},
            study.experts,
            shared=set(shared) == {1},
            numbers={one.run: one.live.own_layers for one in study.models},
        ),
        key="subset_kept",
        config=CHART_CONFIG,
        alt="The kept experts of each layer by expert id, from above: "
        f"{in_each(study.runs, lambda run: study.kept_in_words(run, choice.keep_k))}.",
    )
    shares = _overlap(study, choice, live)
    documents = _calibration_documents(study, choice, live)
    _export(study, choice, live, shares, documents)


def _export(
    study: Study,
    choice: Choice,
    live: Live,
    shares: pd.DataFrame | None,
    documents: pd.DataFrame | None,
) -> None:
    """The two pictures and what they are drawn of. shares, documents: where they are shown."""
    charts, tables = (
        {"Kept experts": "subset_kept"},
        {"Kept experts": lambda: _kept_table(study, live)},
    )
    if shares is not None:
        charts["Shared with other domains"] = "subset_overlap"
        named = shares.rename_axis("domain").reset_index()
        tables["Shared with other domains"] = lambda: named
    if documents is not None:
        tables["Calibration documents"] = lambda: documents
    export.offer(
        "kept experts",
        study.runs,
        charts=charts,
        tables=tables,
        shown=f"{live.domain}, {choice.method}, keep-k {choice.keep_k}",
    )


def _kept_table(study: Study, live: Live) -> pd.DataFrame:
    """A row for each expert that is kept."""
    rows = [
        {"run": live.runs[run].label, "layer": layer, "expert": expert}
        for run, subset in live.subsets.items()
        for layer, experts in zip(study.models[run].live.own_layers, subset.experts, strict=True)
        for expert in experts
    ]
    return pd.DataFrame(rows)


def _by_hand(study: Study, live: Live) -> str:
    if not any(live.switched.values()):
        return ""
    numbers = in_each(study.runs, lambda run: str(live.switched[run]))
    return f" Single experts are switched by hand: {numbers}."


def _overlap(study: Study, choice: Choice, live: Live) -> pd.DataFrame | None:
    """How much of the subset the other domains would keep too; what was drawn, if anything."""
    routed = {one.run: one.routed for one in study.models}
    others = [domain for domain in study.domains if domain != live.domain]
    if not others or choice.keep_k == study.num_experts:
        return None
    shares = pd.DataFrame(
        {
            run: [
                shared_share(subset.experts, ranking(study, run, domain), routed[run])
                for domain in others
            ]
            for run, subset in live.subsets.items()
        },
        index=[escape_plotly(domain) for domain in others],
    ).sort_values(study.runs.first.id, ascending=False)
    first = study.runs.first.id
    kept = choice.keep_k - study.config(first).num_shared_experts
    chance = float(np.mean([min(kept, experts) / experts for experts in routed[first]]))
    means = in_each(study.runs, lambda run: share(shares[run].mean()))
    st.plotly_chart(
        figures.overlap_bars(study.runs, shares, chance),
        key="subset_overlap",
        config=CHART_CONFIG,
        alt=f"Kept routed experts shared with each of {len(others)} other domains: mean {means}, "
        f"{share(chance)} by chance.",
    )
    st.caption("The other domains' subsets are chosen by router probability at the same keep-k.")
    return shares


def _calibration_documents(study: Study, choice: Choice, live: Live) -> pd.DataFrame | None:
    """Those that the experts were chosen on; what was listed, if anything."""
    if choice.method == RANDOM:
        st.caption("A random subset needs no calibration documents; this one is of seed 0.")
        return None
    if choice.method == WORTH_HERE:
        st.caption("No calibration documents: the experts are chosen on the document shown.")
        return None
    other = study.other(live.domain) if choice.method == OTHER_DOMAIN else None
    source = other or live.domain
    ids = study.calibration_ids(source)
    st.markdown(f"**{count(len(ids), 'calibration document')}** of {escape_markdown(source)}:")
    try:
        every = library.calibration_documents().set_index("id")
    except ValueError as error:
        st.markdown(escape_markdown(str(error)))
        return None
    named = {"id": "Id", "parent": "Document", "source": "Source"}
    rows = every.reindex(list(ids))[["parent", "source"]].reset_index().rename(columns=named)
    st.dataframe(
        rows,
        hide_index=True,
        height=180,
        key="subset_calibration",
        alt=f"The {len(ids)} calibration documents of {source}.",
    )
    return rows
