"""Subset ablation page: the curve, how its experts were chosen, and the document token by token."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.ablation import shared_share
from emo_viz.analysis.curves import OTHER_DOMAIN, RANDOM, Measured
from emo_viz.analysis.runs import Run
from emo_viz.figures import ablation as figures
from emo_viz.figures.theme import DIVERGING, SELECTION_COLOUR, chart_config, colour_at
from emo_viz.server import commands, library
from emo_viz.ui.ablation import page
from emo_viz.ui.ablation.controls import FIELD, METHOD_LABELS, NO_CURVES, TOKEN
from emo_viz.ui.ablation.page import ALL_DOMAINS, METHOD_WORDS, Choice, Live, Study
from emo_viz.ui.parts import measuring, progress
from emo_viz.ui.parts.strip import StripToken, token_strip
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import links, routes, slots
from emo_viz.ui.shell.words import (
    count,
    escape_markdown,
    escape_plotly,
    rest_cut,
    share,
    shorten,
    visible,
)
from model.files import weights_digest

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset

VIEW = routes.SUBSET_VIEW
INCREASE, LOSS = "Loss increase", "Loss"
MEASURES: dict[str, figures.Measure] = {INCREASE: "increase", LOSS: "loss"}
# Nats. Fixed, so that colours mean the same at every keep-k: a token at the end of the scale has
# become 20 times less (or more) likely.
COLOUR_REACH = 3.0
TEXT_PIXELS = 170  # two texts as high as the curve beside them
NARROWEST = 400  # pixels: narrower, the text and the curve stand one below the other


def curve(study: Study, choice: Choice, found: Measured, live: Live) -> None:
    """The curve of every run, its options and what it rests on below."""
    points = found.table
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        view = links.choice(
            st, "Curve of", [INCREASE, LOSS], VIEW, what="curve", label_visibility="collapsed"
        )
        _chosen_how(study, choice, live)
    measure = MEASURES[str(view)]
    where = ALL_DOMAINS if choice.domain is None else choice.domain
    chosen = f"Experts: {METHOD_LABELS[choice.method].lower()}"
    numbers = f"{count(found.documents, 'held-out document')}, {count(found.tokens, 'token')}"
    values = {
        run: live.increase(run) if measure == "increase" else float(np.nanmean(live.cut[run]))
        for run in study.runs.ids
    }
    st.plotly_chart(
        figures.curve(
            study.runs,
            points,
            measure,
            choice.method,
            choice.keep_k,
            values,
            f"{chosen}. {escape_plotly(where)}: {numbers}",
            study.experts,
        ),
        key="subset_curve",
        theme="streamlit",
        config=chart_config("subset curve"),
        alt=_alt(study, points, choice, numbers),
    )
    st.caption(_rests_on(study, choice, points))
    _export(study, choice, points, live)
    _more_points(study, choice)


def unmeasured(study: Study, choice: Choice, live: Live) -> None:
    """In place of the curve, where models have none: what was kept, and what can be taken along."""
    st.info(
        f"{NO_CURVES}; every number is computed now, on the document shown. This command measures "
        f"them, or the button below: `{commands.curves(study.runs.ids)}`",
        icon=":material/visibility_off:",
    )
    _chosen_how(study, choice, live)
    st.download_button(
        "Token losses as CSV",
        lambda: _token_losses(live),
        file_name=_losses_file(choice),
        mime="text/csv",
        on_click="ignore",
        help="Of the document shown: each token with all experts and with the subset.",
    )
    measuring.all_curves(study.models, "Measure all curves")


def _losses_file(choice: Choice) -> str:
    return f"token-losses-{choice.document}-{choice.method}-{choice.keep_k}.csv"


def _alt(study: Study, points: pd.DataFrame, choice: Choice, numbers: str) -> str:
    """The measured increases in words."""
    lines = []
    for run in study.runs:
        at = points[(points["model"] == run.id) & (points["method"] == choice.method)]
        pairs = zip(at["keep_k"], at["increase"], strict=True)
        lines.append(f"{run.label} " + ", ".join(f"{value:+.3f} at {k}" for k, value in pairs))
    return f"Loss increase in nats a token by experts kept, on {numbers}: {'; '.join(lines)}."


def _rests_on(study: Study, choice: Choice, points: pd.DataFrame) -> str:
    """What chose the experts and what was evaluated, in words."""
    seeds = _seeds(points)
    drawn = seeds and choice.method != RANDOM
    band = (
        f"Grey: least to greatest of {seeds} random subsets, dashed their mean. " if drawn else ""
    )
    mean = "" if choice.domain else f"Mean over {count(len(study.domains), 'domain')}. "
    return (
        f"{_chosen_on(study, choice, seeds)} {mean}Coloured band: 95 % interval, bootstrap over "
        f"the held-out documents. {band}Open marks: the document shown, computed now."
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


def _more_points(study: Study, choice: Choice) -> None:
    """Measure the curve again, or one domain at more keep-ks, on request."""
    if choice.domain is None:
        measuring.all_curves(study.models, "Measure all domains again")
        return
    job = page.fine_job(study, choice)
    if job is not None and job.running:
        progress.watch(job, "Measuring more points")
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        done = job is not None and job.result is not None
        if st.button(
            "Measure more points",
            icon=":material/add_chart:",
            disabled=done,
            help=_more_points_help(study, done),
        ):
            page.start_fine_job(study, choice.domain, choice.method)
            st.rerun()
        if job is not None and job.cancelled:
            st.caption("The measurement was stopped; the curve shows the stored points.")
        progress.failure(job, "The measurement")


def _more_points_help(study: Study, done: bool) -> str:
    if done:
        return "This curve has been measured at all these points."
    return (
        f"Every model on every held-out document of the domain, at keep-k "
        f"{', '.join(map(str, page.fine_keep(study, study.runs.first.id)))}. Runs in the "
        "background; you can go on."
    )


def _chosen_how(study: Study, choice: Choice, live: Live) -> None:
    place = st.popover(
        "How the experts were chosen",
        icon=":material/help:",
        key="subset_how",
        on_change="rerun",
    )
    if place.open:
        with place:
            _kept(study, choice, live)


def _kept(study: Study, choice: Choice, live: Live) -> None:
    """The kept experts, how they were chosen and on what."""
    shared = [study.config(run).num_shared_experts for run in study.runs.ids]
    st.markdown(
        f"**{escape_markdown(live.domain)}**, keep-k {choice.keep_k}: "
        f"{METHOD_WORDS[choice.method]}{', and the shared experts' * any(shared)}."
    )
    st.plotly_chart(
        figures.kept_map(
            study.runs,
            {run: subset.experts for run, subset in live.subsets.items()},
            study.experts,
            shared=set(shared) == {1},
        ),
        key="subset_kept",
        config=chart_config("subset kept"),
        alt="The kept experts of each layer by expert id, from above: "
        f"{in_each(study.runs, lambda run: study.kept_in_words(run, choice.keep_k))}.",
    )
    _overlap(study, choice, live)
    _calibration_documents(study, choice, live)


def _overlap(study: Study, choice: Choice, live: Live) -> None:
    """How much of the subset the other domains would keep too."""
    routed = {one.run: one.routed for one in study.models}
    others = [domain for domain in study.domains if domain != live.domain]
    if not others or choice.keep_k == study.num_experts:
        return
    shares = pd.DataFrame(
        {
            run: [
                shared_share(subset.experts, page.ranking(study, run, domain), routed[run])
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
        config=chart_config("subset overlap"),
        alt=f"Kept routed experts shared with each of {len(others)} other domains: mean {means}, "
        f"{share(chance)} by chance.",
    )
    st.caption("The other domains' subsets are chosen by router probability at the same keep-k.")


def _calibration_documents(study: Study, choice: Choice, live: Live) -> None:
    if choice.method == RANDOM:
        st.caption("A random subset needs no calibration documents; this one is of seed 0.")
        return
    other = study.other(live.domain) if choice.method == OTHER_DOMAIN else None
    source = other or live.domain
    ids = study.calibration_ids(source)
    st.markdown(f"**{count(len(ids), 'calibration document')}** of {escape_markdown(source)}:")
    try:
        every = library.calibration_documents().set_index("id")
    except ValueError as error:
        st.markdown(escape_markdown(str(error)))
        return
    rows = every.reindex(list(ids))[["parent", "source"]]
    st.dataframe(
        rows.reset_index().rename(columns={"id": "Id", "parent": "Document", "source": "Source"}),
        hide_index=True,
        height=180,
        key="subset_calibration",
        alt=f"The {len(ids)} calibration documents of {source}.",
    )


def _export(study: Study, choice: Choice, points: pd.DataFrame, live: Live) -> None:
    with st.popover("Export", icon=":material/download:"):
        where = (choice.domain or "all-domains").replace("/", "-")
        st.download_button(
            "Curve as CSV",
            points.to_csv(index=False),
            file_name=f"curve-{where}.csv",
            mime="text/csv",
            on_click="ignore",
            width="stretch",
        )
        st.download_button(
            "Token losses as CSV",
            lambda: _token_losses(live),
            file_name=_losses_file(choice),
            mime="text/csv",
            on_click="ignore",
            width="stretch",
            help="Of the document shown: each token with all experts and with the subset.",
        )
        if not all(one.live.is_emo for one in study.models):
            st.caption("Subset files are for `cut`, which takes EMO's own format alone.")
            return
        for run in study.runs:
            st.download_button(
                f"{name(run)} subset as JSON",
                _subset_json(study, run.id, live.subsets[run.id]),
                file_name=_subset_file(run.id, choice, live),
                mime="application/json",
                on_click="ignore",
                width="stretch",
            )
        st.caption(
            "A subset lists the kept expert ids of every layer and how they were chosen. With its "
            "file, this writes a checkpoint that has these experts alone:"
        )
        first = study.runs.first.id
        file = _subset_file(first, choice, live)
        command = commands.cut(first, file, Path(file).stem)
        st.code(command, language="bash", wrap_lines=True)


def _subset_file(run: str, choice: Choice, live: Live) -> str:
    domain = live.domain.replace("/", "-")
    return f"{run}-{domain}-{choice.method}-{choice.keep_k}.json"


def _subset_json(study: Study, run: str, subset: "ExpertSubset") -> str:
    """With whose experts these are: `cut` takes no others'."""
    folder = study.models[run].path
    return replace(subset, model=folder.name, weights_sha256=weights_digest(folder)).to_json()


def _token_losses(live: Live) -> str:
    """A row a token; its text as JSON, so that no spreadsheet takes one for a formula."""
    texts = [json.dumps(piece, ensure_ascii=False) for piece in live.pieces[1:]]
    columns: dict[str, Any] = {"token": range(1, len(live.pieces)), "text": texts}
    for run in live.runs.ids:
        columns |= {f"{run}_full": live.full[run][1:], f"{run}_cut": live.cut[run][1:]}
    return pd.DataFrame(columns).to_csv(index=False)


@st.fragment
def document(choice: Choice, live: Live) -> None:
    """The chosen document: how much each model loses on it, and on which tokens.

    Beside the curve: what the slider changes stands on one screen with it.
    """
    with links.fragment():
        _document(choice, live)


def _document(choice: Choice, live: Live) -> None:
    shown = live.shown
    kind = "" if choice.is_own else "Document: "
    st.markdown(f"##### {kind}{escape_markdown(shorten(shown.title, 80))}")
    if choice.is_own:
        st.caption(_whose_experts(choice, live))
    token = links.token(TOKEN, live.num_tokens)
    for run in live.runs:
        st.markdown(_numbers(live, run))
        _strip(live, run.id, token)
    _legend()
    _token(live, token)
    cut = rest_cut(shown.cut_tokens + live.dropped)
    st.caption(f"{count(live.num_tokens, 'token')}{cut}. {escape_markdown(shown.origin)}")
    _routing_link(choice)


def _routing_link(choice: Choice) -> None:
    """To the same text on the page of its routing."""
    st.page_link(
        routes.ROUTING,
        label="Token routing of this text",
        icon=":material/alt_route:",
        query_params=slots.params()
        | (
            routes.routing_of_text(FIELD.in_link(choice.text))
            if choice.is_own
            else routes.routing_of_document(choice.document)
        ),
    )


def _whose_experts(choice: Choice, live: Live) -> str:
    """A text of one's own has no domain: how it came to one."""
    if choice.method == RANDOM:
        return "Its experts are drawn at random."
    domain = f"**{escape_markdown(live.domain)}**"
    if choice.domain is not None:
        return f"Its experts are those of {domain}, as chosen above."
    return (
        f"Its experts are those of {domain}, whose favourites {name(live.runs.first)} uses most on "
        "this text. Another domain can be chosen above."
    )


def _numbers(live: Live, run: Run) -> str:
    """What the cut costs one model on this document."""
    full, cut = np.nanmean(live.full[run.id]), np.nanmean(live.cut[run.id])
    return (
        f"**{name(run)}**: {full:.3f} → {cut:.3f} nats a token "
        f"(**{live.increase(run.id):+.3f}**), {share(live.worse(run.id) / live.num_tokens)} of "
        "tokens worse"
    )


def _strip(live: Live, run: str, selected: int | None) -> None:
    change = live.change(run)
    token_strip(
        [
            _strip_token(live, run, position, float(change[position]))
            for position in range(1, len(live.pieces))
        ],
        selected,
        mark_colour="rgba(0, 0, 0, 0)",
        selection_colour=SELECTION_COLOUR,
        pixels=TEXT_PIXELS,
        key=f"subset_strip_{run}",
        on_pick=_pick,
    )


def _pick(position: int | None) -> None:
    st.session_state[TOKEN] = position


def _strip_token(live: Live, run: str, position: int, change: float) -> StripToken:
    piece = live.pieces[position]
    changed = _change_in_words(live, run, position)
    return StripToken(
        text=visible(piece),
        title=f"Token {position}: {live.labels[position]}\n{changed}",
        colour=change_colour(change),
        sign=piece.isspace() and "\n" in piece,
        breaks=piece.count("\n"),
    )


def change_colour(change: float) -> str:
    """Orange where the loss rose, blue where it fell; full colour at COLOUR_REACH nats."""
    return colour_at(DIVERGING, 0.5 - change / (2 * COLOUR_REACH))


def _change_in_words(live: Live, run: str, position: int) -> str:
    full, cut = live.full[run][position], live.cut[run][position]
    return f"Loss {full:.2f} → {cut:.2f} nats ({cut - full:+.2f})"


def _legend() -> None:
    stops = ", ".join(change_colour(step * COLOUR_REACH / 4) for step in range(-4, 5))
    st.html(
        '<div style="display: flex; align-items: center; gap: 0.6rem; font-size: 0.85rem; '
        f'white-space: nowrap"><span>Loss change: −{COLOUR_REACH:g}</span>'
        '<span style="width: 12rem; height: 0.8rem; border-radius: 2px; '
        f'background: linear-gradient(to right, {stops})"></span>'
        f"<span>+{COLOUR_REACH:g} nats</span></div>"
    )


def _token(live: Live, token: int | None) -> None:
    if token is None:
        seen = "compare it in both" if len(live.runs) > 1 else "see its numbers"
        st.caption(
            "Loss with all experts → with the subset; a token is worse if its loss rose by more "
            f"than {page.WORSE} nats. Orange: the subset predicts it worse; blue: better. "
            f"Click a token to {seen}; the arrow keys move on from it."
        )
        return
    label = escape_markdown(live.labels[token])
    words = " · ".join(f"{name(run)}: {_change_in_words(live, run.id, token)}" for run in live.runs)
    st.caption(f"Token {token} of {live.num_tokens}, “{label}”. {words}")
