"""Subset ablation page: the row of controls, and what it stands for in the address."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from emo_viz.analysis.curves import (
    GREEDY,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
)
from emo_viz.analysis.widths import in_words
from emo_viz.figures.ablation import Measure
from emo_viz.figures.kept import beside
from emo_viz.server import assets, library
from emo_viz.ui.ablation import grid
from emo_viz.ui.ablation.page import (
    BY_WORTH,
    OWN,
    WORTH,
    WORTH_HERE,
    Choice,
    Study,
    measured_ids,
)
from emo_viz.ui.parts import unseen
from emo_viz.ui.parts.own_text import OwnText
from emo_viz.ui.parts.steps import around, document_steps
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.address import one_of, whole_number
from emo_viz.ui.shell.words import numbered

DOMAIN, METHOD, KEEP = routes.SUBSET_DOMAIN, routes.SUBSET_METHOD, routes.SUBSET_KEEP
DOCUMENT, TOKEN, VIEW = routes.SUBSET_DOCUMENT, routes.SUBSET_TOKEN, routes.SUBSET_VIEW
DEFAULT_KEEP = 16
OWN_LABEL = "Your own text …"
NO_CURVES = "No curves over many documents have been measured here of these models"
MEASURES: dict[str, Measure] = {"Loss increase": "increase", "Loss": "loss"}
READS_WELL = "recipes"  # a domain whose texts the small models go on with in whole sentences
LOW_FIELD = 80  # pixels: the text and the curve below it stay in sight
METHOD_LABELS = {
    ROUTER_PROBABILITY: "Router probability",
    GREEDY: "Greedy, layer by layer",
    OTHER_DOMAIN: "Another domain's experts",
    RANDOM: "Random",
    WORTH: "Importance (first-order)",
    WORTH_HERE: "Importance on this document",
}


def _forget_token() -> None:
    st.session_state[TOKEN] = None


FIELD = OwnText("subset", routes.SUBSET_TEXT, _forget_token)


def controls(study: Study) -> Choice:
    """The row of controls. A link's impossible keep-k is named in one sentence and not used."""
    domains = [routes.ALL_DOMAINS, *study.domains]
    keep_k = _keep_k(study)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        domain = links.select(st, "Domain", domains, DOMAIN, on_change=_forget_token, width=150)
        method = links.select(
            st,
            "Experts chosen by",
            study.methods,
            METHOD,
            what="method",
            format_func=METHOD_LABELS.__getitem__,
            width=172,
        )
        chosen = None if domain == routes.ALL_DOMAINS else domain
        document = _choose_document(study, chosen)
        links.choice(st, "Curve of", list(MEASURES), VIEW, what="curve")
        only_new = _offer_new(study, chosen, method)
    if study.curves is not None and (said := unseen.measured_on(study.curves)):
        st.caption(said)
    text = _own_text() if document == OWN else None
    if document == OWN and text is None:
        missing.end()
    switched = links.value(routes.SUBSET_SWITCHED, grid.kind_of(study), ())
    return Choice(chosen, method, keep_k, document, text or "", switched, only_new)


def _offer_new(study: Study, domain: str | None, method: str) -> bool:
    """Whether the curves are to be of new documents alone, where there are curves of some."""
    if study.curves is None or method in BY_WORTH:
        return False
    curves, key = study.curves, ("measured", assets.content(library.documents_path()), domain)
    own = beside(curves, key, lambda: _measured(study.documents, measured_ids(curves), domain))
    return unseen.offer(st, own, routes.SUBSET_SEEN) or unseen.are_new(curves)


def _measured(documents: pd.DataFrame, ids: set[str], domain: str | None) -> pd.DataFrame:
    own = documents["id"].isin(ids)
    return documents[own if domain is None else own & (documents["domain"] == domain)]


def moved(study: Study, choice: Choice) -> Choice:
    """The same with what is chosen below the controls: the slider's place, experts by hand."""
    switched = links.value(routes.SUBSET_SWITCHED, grid.kind_of(study), ())
    return replace(choice, keep_k=_keep_k(study), switched=switched)


def measure() -> Measure:
    """What the curve is of, as chosen in the row of controls."""
    return MEASURES[str(st.session_state[VIEW])]


def _keep_k(study: Study) -> int:
    """Where the slider below stands: the browser says so once it is let go."""
    least, most = study.fewest_kept, study.num_experts
    kind = whole_number(
        "experts kept",
        least,
        most,
        sentence=f"The link asks for {{asked}} experts a layer; a subset keeps "
        f"{least} (what each token uses) to {most} of them, so this shows another number.",
    )
    keep_k: int = links.value(KEEP, kind, max(least, min(DEFAULT_KEEP, most)))
    return keep_k


def about_keep(study: Study) -> str:
    """What the slider's number counts, and how far it goes."""
    least = study.fewest_kept
    first = study.runs.first
    own = study.experts[first.id]
    shared = study.config(first.id).num_shared_experts
    parts = [
        "The number kept counts the shared expert, which always stays."
        if shared
        else "The number kept counts the experts that routers choose among.",
        f"Fewer than {least} cannot be kept: each token uses as many.",
    ]
    if len(set(own)) > 1:
        parts.append(f"The layers have {in_words(own)}; one with fewer keeps all its.")
    if not study.even:
        parts.append(
            f"It is counted in experts of {name(first)}; the other run keeps the same share."
        )
    return " ".join(parts)


def _own_text() -> str | None:
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    text = FIELD.ask("what it loses with a domain's experts alone", row, LOW_FIELD)
    FIELD.file_picker(row)
    return text


def _choose_document(study: Study, domain: str | None) -> str:
    """The id of the chosen document, or OWN."""
    key = f"{assets.content(library.documents_path())} {' '.join(study.live_domains)}"
    labels = _document_labels(study.documents, key, domain)
    ids = list(labels)
    kind = one_of("document", [OWN, *ids], always=True)
    usual = _reads_well(study, ids)
    links.enter(DOCUMENT, kind, usual)
    # One container, so that a narrow page keeps the buttons beside the document.
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", width="content"):
        chosen: str = st.selectbox(
            f"Document ({len(ids):,} held out)",
            [OWN, *ids],
            format_func=lambda each: labels.get(each, OWN_LABEL),
            key=DOCUMENT,
            on_change=_forget_token,
            width=215,
        )
        links.leave(DOCUMENT, kind, chosen, usual)
        place = -1 if chosen == OWN else ids.index(chosen)
        document_steps(st, "subset", around(ids, place), _open_document)
    return chosen


def _reads_well(study: Study, ids: list[str]) -> str:
    """The document that is shown first."""
    documents = study.documents
    fitting = beside(
        documents,
        ("reads well", READS_WELL),
        lambda: documents.loc[documents["domain"] == READS_WELL, "id"].tolist(),
    )
    known = set(ids)
    return next((str(each) for each in fitting if each in known), ids[0])


@st.cache_resource(max_entries=64, show_spinner=False)
def _document_labels(_documents: pd.DataFrame, key: str, domain: str | None) -> dict[str, str]:
    """Ids of the documents of a domain (None: of all) and a numbered opening of each."""
    shown = _documents if domain is None else _documents[_documents["domain"] == domain]
    return numbered(shown["id"], shown["text"], 70)


def _open_document(document: str) -> None:
    st.session_state[DOCUMENT] = document
    _forget_token()
