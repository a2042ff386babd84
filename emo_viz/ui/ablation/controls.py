"""Subset ablation page: its first line, and the row of controls under it."""

from collections.abc import Iterator, Sequence

import pandas as pd
import streamlit as st

from emo_viz.analysis.curves import (
    GREEDY,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
    Measured,
    likelihood_kept,
)
from emo_viz.analysis.widths import in_words, kept_of
from emo_viz.server import assets
from emo_viz.ui.ablation.page import ALL_DOMAINS, OWN, Choice, Live, Study
from emo_viz.ui.parts.own_text import OwnText
from emo_viz.ui.parts.reading import absent_of, say_absent
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.address import one_of
from emo_viz.ui.shell.words import count, escape_markdown, isolated, share, shorten, visible

DOMAIN, METHOD, KEEP = routes.SUBSET_DOMAIN, routes.SUBSET_METHOD, routes.SUBSET_KEEP
DOCUMENT, TOKEN = routes.SUBSET_DOCUMENT, routes.SUBSET_TOKEN
DEFAULT_KEEP = 16
OWN_LABEL = "Your own text …"
NO_CURVES = "No curves over many documents have been measured here of these models"
LOW_FIELD = 80  # pixels: the text and the curve below it stay in sight
METHOD_LABELS = {
    ROUTER_PROBABILITY: "Router probability",
    GREEDY: "Greedy, layer by layer",
    OTHER_DOMAIN: "Another domain's experts",
    RANDOM: "Random",
}
SUFFIXES = {
    ROUTER_PROBABILITY: "",
    GREEDY: " chosen layer by layer",
    OTHER_DOMAIN: " chosen for another domain",
    RANDOM: " drawn at random",
}


def _forget_token() -> None:
    st.session_state[TOKEN] = None


FIELD = OwnText("subset", routes.SUBSET_TEXT, _forget_token)


def answer(study: Study, choice: Choice, found: Measured | None, live: Live) -> None:
    """The first line: what the models keep at this keep-k, measured where it can be."""
    keep = f"{_keep(study, choice)} experts{SUFFIXES[choice.method]}"
    if found is None:
        _answer_live(study, live, keep, NO_CURVES)
        return
    try:
        spans = {
            run: found.increase(run, choice.method, study.keep_of(run, choice.keep_k))
            for run in study.runs.ids
        }
    except ValueError:
        why = f"The curve has no measured point at {choice.keep_k}"
        _answer_live(study, live, keep, why, f" {_neighbours(study, choice, found)}")
        return
    where = f"{count(len(study.domains), 'domain')}" if choice.domain is None else choice.domain
    kept = in_each(study.runs, lambda run: f"**{_kept(spans[run].mean)}**")
    st.markdown(
        f"#### On {count(found.documents, 'held-out document')} of {escape_markdown(where)} "
        f"({count(found.tokens, 'token')}), the likelihood kept a token with {keep} is {kept}."
    )
    increases = in_each(
        study.runs,
        lambda run: f"{spans[run].mean:+.3f} ({spans[run].low:+.3f} to {spans[run].high:+.3f})",
    )
    better = _better(*(one.mean for one in spans.values()))
    st.caption(
        f"Loss increase over all experts in nats a token, 95 % interval over documents: "
        f"{increases}. Likelihood kept is e to the minus that{better}. {_full_losses(study, found)}"
    )


def _keep(study: Study, choice: Choice) -> str:
    """ "**16 of 128**", of each run where they have different numbers."""

    def own(run: str) -> str:
        return f"**{kept_of(study.keep_of(run, choice.keep_k), study.experts[run])}**"

    return own(study.runs.first.id) if study.even else in_each(study.runs, own)


def _full_losses(study: Study, found: Measured) -> str:
    """Where each model starts: what is kept is a share of this."""
    losses = in_each(study.runs, lambda run: f"{found.full_loss(run).mean:.3f}")
    return f"With all experts, in nats a token: {losses}."


def _better(*increases: float) -> str:
    """Why a share can exceed 100 %, where one does."""
    above = min(increases) < -0.0005
    return "; over 100 %, the subset predicts better than all experts" if above else ""


def _answer_live(study: Study, live: Live, keep: str, why: str, beside: str = "") -> None:
    """Of one document. why: it is not many; beside: what is known of many."""
    increases = {run: live.increase(run) for run in study.runs.ids}
    kept = in_each(study.runs, lambda run: f"**{_kept(increases[run])}**")
    st.markdown(
        f"#### On the document below ({count(live.num_tokens, 'token')}), the likelihood kept a "
        f"token with {keep} is {kept}."
    )
    lost = in_each(study.runs, lambda run: f"{increases[run]:+.3f}")
    st.caption(
        f"{why}, so this is the chosen document alone, computed now, in nats a token: "
        f"{lost}{_better(*increases.values())}.{beside}"
    )
    for loaded in study.models:
        say_absent(tuple(absent_of(loaded)))


def _neighbours(study: Study, choice: Choice, found: Measured) -> str:
    """What all the documents keep at the nearest measured keep-ks: one document is not all."""
    points = {run: found.kept(run, choice.method) for run in study.runs.ids}
    parts = list[str]()
    for below in (True, False):
        nearest = {
            run: _beside(own, study.keep_of(run, choice.keep_k), below)
            for run, own in points.items()
        }
        parts += _kept_at(study, choice, found, nearest)
    return f"The curve's {count(found.documents, 'document')} keep: {'; '.join(parts)}."


def _beside(measured: Sequence[int], keep_k: int, below: bool) -> int | None:
    """The nearest measured keep-k under, or over, another."""
    if below:
        return max((k for k in measured if k < keep_k), default=None)
    return min((k for k in measured if k > keep_k), default=None)


def _kept_at(
    study: Study, choice: Choice, found: Measured, at: dict[str, int | None]
) -> Iterator[str]:
    """What the runs keep at a keep-k each; nothing where one has none."""
    known = {run: k for run, k in at.items() if k is not None}
    if len(known) < len(at):
        return
    numbers = " and ".join(map(str, dict.fromkeys(known.values())))
    kept = in_each(
        study.runs, lambda run: _kept(found.increase(run, choice.method, known[run]).mean)
    )
    yield f"{kept} with {numbers}"


def _kept(increase: float) -> str:
    return share(likelihood_kept(increase)).replace(" ", "\u00a0")


def controls(study: Study) -> Choice:
    """The row of controls. A link's impossible keep-k is named in one sentence and not used."""
    least, most = study.fewest_kept, study.num_experts
    first = study.experts[study.runs.first.id]
    uneven = len(set(first)) > 1
    domains = [ALL_DOMAINS, *study.domains]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        domain = links.select(st, "Domain", domains, DOMAIN, on_change=_forget_token, width=180)
        method = links.select(
            st,
            "Experts chosen by",
            study.methods,
            METHOD,
            what="method",
            format_func=METHOD_LABELS.__getitem__,
            width=200,
        )
        keep_k = links.slider(
            st,
            "Experts kept a layer (keep-k)",
            least,
            most,
            max(least, min(DEFAULT_KEEP, most)),
            KEEP,
            sentence=f"The link asks for {{asked}} experts a layer; a subset keeps "
            f"{least} (what each token uses) to {most} of "
            "them, so this shows another number.",
            help=_counts(study)
            + f"Fewer than {least} cannot be kept: each token uses as many."
            + f" The layers have {in_words(first)}; one with fewer keeps all its." * uneven
            + _of_other(study),
            width=230,
        )
        chosen = None if domain == ALL_DOMAINS else domain
        document = _choose_document(study, chosen)
    text = _own_text() if document == OWN else None
    if document == OWN and text is None:
        st.stop()
    return Choice(chosen, method, keep_k, document, text or "")


def _counts(study: Study) -> str:
    """Whether the number kept holds an expert that is never cut."""
    if study.config(study.runs.first.id).num_shared_experts:
        return "Counts the shared expert, which always stays. "
    return "Counts the experts that routers choose among. "


def _of_other(study: Study) -> str:
    """What the slider means for a run with another number of experts."""
    if study.even:
        return ""
    first = name(study.runs.first)
    return f" Counted in experts of {first}; the other run keeps the same share of its own."


def _own_text() -> str | None:
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    text = FIELD.ask("what it loses with a domain's experts alone", row, LOW_FIELD)
    FIELD.file_picker(row)
    return text


def _choose_document(study: Study, domain: str | None) -> str:
    """The id of the chosen document, or OWN."""
    key = f"{assets.content(assets.documents_path())} {' '.join(study.live_domains)}"
    labels = _document_labels(study.documents, key, domain)
    ids = list(labels)
    kind = one_of("document", [OWN, *ids], always=True)
    links.enter(DOCUMENT, kind, ids[0])
    # One container, so that a narrow page keeps the buttons beside the document.
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", width=370):
        chosen: str = st.selectbox(
            f"Held-out document ({len(ids):,})",
            [OWN, *ids],
            format_func=lambda each: labels.get(each, OWN_LABEL),
            key=DOCUMENT,
            on_change=_forget_token,
            width=215,
        )
        links.leave(DOCUMENT, kind, chosen, ids[0])
        _step_button(ids, -1)
        _step_button(ids, +1)
    return chosen


@st.cache_resource(max_entries=64, show_spinner=False)
def _document_labels(_documents: pd.DataFrame, key: str, domain: str | None) -> dict[str, str]:
    """Ids of the documents of a domain (None: of all) and a numbered opening of each.

    The number keeps equal openings apart.
    """
    shown = _documents if domain is None else _documents[_documents["domain"] == domain]
    return {
        document: f"{number}. {isolated(_opening(text))}"
        for number, (document, text) in enumerate(
            zip(shown["id"], shown["text"], strict=True), start=1
        )
    }


def _opening(text: str) -> str:
    return shorten(" ".join(visible(text[:200]).replace("↵", " ").split()), 70)


def _step_button(ids: list[str], step: int) -> None:
    where, icon, key = (
        ("previous", ":material/chevron_left:", "left")
        if step < 0
        else ("next", ":material/chevron_right:", "right")
    )
    shown = st.session_state[DOCUMENT]
    place = (-1 if shown == OWN else ids.index(shown)) + step
    st.button(
        "",
        icon=icon,
        help=f"Go to the {where} document ({key} arrow key)",
        key=f"subset_{where}",
        disabled=not 0 <= place < len(ids),
        on_click=_open_document,
        args=(ids[place % len(ids)],),
    )


def _open_document(document: str) -> None:
    st.session_state[DOCUMENT] = document
    _forget_token()
