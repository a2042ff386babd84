"""Subset ablation page: its first line, and the row of controls under it."""

import pandas as pd
import streamlit as st

from emo_viz.analysis.curves import (
    FULL,
    GREEDY,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
    Measured,
    likelihood_kept,
)
from emo_viz.analysis.widths import in_words, kept_of
from emo_viz.server import assets, library
from emo_viz.ui.ablation.page import ALL_DOMAINS, OWN, Choice, Live, Study
from emo_viz.ui.parts.own_text import OwnText
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.address import one_of
from emo_viz.ui.shell.words import count, escape_markdown, isolated, share, shorten, visible

DOMAIN, METHOD, KEEP = routes.SUBSET_DOMAIN, routes.SUBSET_METHOD, routes.SUBSET_KEEP
DOCUMENT, TOKEN = routes.SUBSET_DOCUMENT, routes.SUBSET_TOKEN
DEFAULT_KEEP = 16
OWN_LABEL = "Your own text …"
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


def answer(study: Study, choice: Choice, found: Measured, live: Live) -> None:
    """The first line: what both models keep at this keep-k, measured where it can be."""
    keep = f"**{kept_of(choice.keep_k, study.experts)}** experts{SUFFIXES[choice.method]}"
    try:
        emo, standard = (
            found.increase(model, choice.method, choice.keep_k) for model in assets.MODEL_FOLDERS
        )
    except ValueError:
        _answer_live(choice, found, live, keep)
        return
    where = f"{count(len(study.domains), 'domain')}" if choice.domain is None else choice.domain
    st.markdown(
        f"#### On {count(found.documents, 'held-out document')} of {escape_markdown(where)} "
        f"({count(found.tokens, 'token')}), EMO keeps **{_kept(emo.mean)}** of its likelihood a "
        f"token with {keep}; the standard MoE keeps **{_kept(standard.mean)}**."
    )
    spans = (
        f"{assets.MODEL_LABELS[name]} {one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
        for name, one in zip(assets.MODEL_FOLDERS, (emo, standard), strict=True)
    )
    st.caption(
        f"Loss increase over all experts in nats a token, 95 % interval over documents: "
        f"{', '.join(spans)}. Likelihood kept is e to the minus that"
        f"{_better(emo.mean, standard.mean)}. {_full_losses(found)}"
    )


def _full_losses(found: Measured) -> str:
    """Where each model starts: what is kept is a share of this."""
    losses = (
        f"{label} {found.full_loss(model).mean:.3f}" for model, label in assets.MODEL_LABELS.items()
    )
    return f"With all experts: {', '.join(losses)} nats a token."


def _better(*increases: float) -> str:
    """Why a share can exceed 100 %, where one does."""
    above = min(increases) < -0.0005
    return "; over 100 %, the subset predicts better than all experts" if above else ""


def _answer_live(choice: Choice, found: Measured, live: Live, keep: str) -> None:
    emo, standard = (live.increase(model) for model in assets.MODEL_FOLDERS)
    st.markdown(
        f"#### On the document below ({count(live.num_tokens, 'token')}), EMO keeps "
        f"**{_kept(emo)}** of its likelihood a token with {keep}; the standard MoE keeps "
        f"**{_kept(standard)}**."
    )
    st.caption(
        f"The curve has no measured point at {choice.keep_k}, so this is the chosen document "
        f"alone, computed now: EMO {emo:+.3f}, standard MoE {standard:+.3f} nats a token"
        f"{_better(emo, standard)}. {_neighbours(choice, found)}"
    )


def _neighbours(choice: Choice, found: Measured) -> str:
    """What all the documents keep at the nearest measured keep-ks: one document is not all."""
    points = found.table
    measured = sorted(set(points.loc[points["method"].isin([choice.method, FULL]), "keep_k"]))
    below = [k for k in measured if k < choice.keep_k][-1:]
    above = [k for k in measured if k > choice.keep_k][:1]
    parts = []
    for keep_k in below + above:
        kept = (
            f"{label} {_kept(found.increase(model, choice.method, keep_k).mean)}"
            for model, label in assets.MODEL_LABELS.items()
        )
        parts.append(f"{', '.join(kept)} with {keep_k}")
    return f"The curve's {count(found.documents, 'document')} keep: {'; '.join(parts)}."


def _kept(increase: float) -> str:
    return share(likelihood_kept(increase)).replace(" ", "\u00a0")


def controls(study: Study) -> Choice:
    """The row of controls. A link's impossible keep-k is named in one sentence and not used."""
    least, most = study.fewest_kept, study.num_experts
    uneven = len(set(study.experts)) > 1
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
            help="Counts the shared expert, which always stays. Fewer than "
            f"{least} cannot be kept: each token uses as many."
            + f" The layers have {in_words(study.experts)}; one with fewer keeps all its."
            * uneven,
            width=230,
        )
        chosen = None if domain == ALL_DOMAINS else domain
        document = _choose_document(chosen)
    text = _own_text() if document == OWN else None
    if document == OWN and text is None:
        st.stop()
    return Choice(chosen, method, keep_k, document, text or "")


def _own_text() -> str | None:
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    text = FIELD.ask("what it loses in both with a domain's experts alone", row, LOW_FIELD)
    FIELD.file_picker(row)
    return text


def _choose_document(domain: str | None) -> str:
    """The id of the chosen document, or OWN."""
    stamp = assets.stamp(assets.documents_path())
    labels = _document_labels(library.documents(), stamp, domain)
    ids = list(labels)
    kind = one_of("document", [OWN, *ids], always=True)
    links.enter(DOCUMENT, kind, ids[0])
    # One container, so that a narrow page keeps the buttons beside the document.
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", width=370):
        chosen: str = st.selectbox(
            f"Held-out document ({len(ids):,})",
            [OWN, *ids],
            format_func=lambda name: labels.get(name, OWN_LABEL),
            key=DOCUMENT,
            on_change=_forget_token,
            width=215,
        )
        links.leave(DOCUMENT, kind, chosen, ids[0])
        _step_button(ids, -1)
        _step_button(ids, +1)
    return chosen


@st.cache_resource(max_entries=64, show_spinner=False)
def _document_labels(
    _documents: pd.DataFrame, stamp: assets.Stamp, domain: str | None
) -> dict[str, str]:
    """Ids of the documents of a domain (None: of all) and a numbered opening of each.

    The number keeps equal openings apart.
    """
    shown = _documents if domain is None else _documents[_documents["domain"] == domain]
    return {
        name: f"{number}. {isolated(_opening(text))}"
        for number, (name, text) in enumerate(zip(shown["id"], shown["text"], strict=True), start=1)
    }


def _opening(text: str) -> str:
    return shorten(" ".join(visible(text[:200]).replace("↵", " ").split()), 70)


def _step_button(ids: list[str], step: int) -> None:
    name, icon, key = (
        ("previous", ":material/chevron_left:", "left")
        if step < 0
        else ("next", ":material/chevron_right:", "right")
    )
    shown = st.session_state[DOCUMENT]
    place = (-1 if shown == OWN else ids.index(shown)) + step
    st.button(
        "",
        icon=icon,
        help=f"Go to the {name} document ({key} arrow key)",
        key=f"subset_{name}",
        disabled=not 0 <= place < len(ids),
        on_click=_open_document,
        args=(ids[place % len(ids)],),
    )


def _open_document(document: str) -> None:
    st.session_state[DOCUMENT] = document
    _forget_token()
