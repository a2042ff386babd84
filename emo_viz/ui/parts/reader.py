"""The document reader: one text in the models, its tokens coloured by cluster or by top expert.

Picking a token in either pane shows the group that each model puts it in; the same token is picked
in the other pane.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import streamlit as st

from emo_viz.analysis.profiles import expert_name
from emo_viz.analysis.runs import Comparison, Run, compare
from emo_viz.analysis.tokens import TokenClusters, load_token_clusters
from emo_viz.figures.clusters import Group, colour_groups
from emo_viz.figures.theme import with_alpha
from emo_viz.server import assets, commands, library
from emo_viz.ui.parts import freshness
from emo_viz.ui.parts.maps import with_quotes
from emo_viz.ui.parts.reading import Chosen, Reading, cut_notice, read
from emo_viz.ui.parts.steps import Around, around, document_steps
from emo_viz.ui.parts.strip import StripToken, token_strip
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell import links, missing, routes, slots
from emo_viz.ui.shell.address import checked, one_of
from emo_viz.ui.shell.words import count, escape_html, escape_markdown, share, shorten, visible

DOCUMENT, TOKEN, COLOUR, LAYER = (
    routes.CLUSTER_DOCUMENT,
    routes.CLUSTER_TOKEN,
    routes.CLUSTER_READER,
    routes.CLUSTER_READER_LAYER,
)
NO_EXPERT = "no expert"  # of a token that found its own full, as in Switch
BY_CLUSTER, BY_EXPERT = "Token cluster", "Top expert"
COLOURING = "colouring of the text"
TINT = 0.38
FADED_TINT = 0.06
FADED = 0.45  # signs of the groups that are not picked
STRIP_PIXELS = 420
DRAWER_PIXELS = 980


@dataclass(frozen=True)
class Coloured:
    """The groups of a text's tokens in one model; `rows` of a group are positions less 1."""

    groups: list[Group]
    of_token: list[Group]
    names: list[str]


def drawer(runs: Comparison, documents: pd.DataFrame, listed: Sequence[str]) -> None:
    """The chosen document in the models, in a drawer; nothing where none is chosen.

    listed: the ids among which the reader goes to the next one. documents: columns id, domain,
    parent, source, text and, for each run, `loss_column`.
    """
    if _chosen(documents) is None:
        _nothing_open()
    else:
        opened = st.dialog(
            "Read in both models" if len(runs) > 1 else "Read in the model",
            width=DRAWER_PIXELS,
            position="right",
            on_dismiss=close,
        )
        opened(_in_drawer)(runs, documents, listed)


def close() -> None:
    """Read no document."""
    st.session_state[DOCUMENT] = st.session_state[TOKEN] = None


def _nothing_open() -> None:
    """Read what a link says of how to read, for when a document is opened."""
    token = checked("The link asks for the token {asked} of no document; none is opened.", _refused)
    links.value(TOKEN, replace(token, fits=lambda chosen: False), None)
    colour = replace(one_of(COLOURING, [BY_CLUSTER, BY_EXPERT]), what="")  # of no text yet
    links.value(COLOUR, colour, BY_CLUSTER)


def _refused(text: str) -> str:
    raise ValueError(text)


def _in_drawer(runs: Comparison, documents: pd.DataFrame, listed: Sequence[str]) -> None:
    with links.fragment():
        document = _chosen(documents)
        if document is not None:
            _reader(runs, document, listed)


def _chosen(documents: pd.DataFrame) -> pd.Series | None:
    """The document to read: the one in the address; None for none."""
    known = documents["id"].tolist()
    kind = one_of("document", known, instead="none is opened")
    chosen: str | None = links.value(DOCUMENT, kind, None)
    return None if chosen is None else documents.iloc[known.index(chosen)]


def loss_column(run: str) -> str:
    """The column with a document's mean loss in a run."""
    return f"loss_{run}"


def _reader(runs: Comparison, document: pd.Series, listed: Sequence[str]) -> None:
    models = library.models()
    own = [run for run in models.comparison if run.id in runs.ids]
    if not own:
        st.info("Reading a document token by token needs a checkpoint of the run.")
        return
    reading = read(models.of(compare(own)), Chosen(document["text"], origin=""))
    token = links.token(TOKEN, reading.num_tokens)
    _head(document, listed, reading, token)
    clusters = _token_clusters(reading)
    by, layer = _colour_controls(reading, clusters)
    cut_notice(reading)
    coloured = {name: _coloured(reading, name, by, layer, clusters) for name in reading.recordings}
    for column, run in zip(st.columns(len(reading.runs)), reading.runs, strict=True):
        with column:
            groups = "clusters" if by == BY_CLUSTER else "experts"
            _pane(run, reading, coloured[run.id], token, groups)
    st.caption(_explanation(by, layer, reading.runs, clusters))


def _head(document: pd.Series, listed: Sequence[str], reading: Reading, token: int | None) -> None:
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    below = st.container(horizontal=True, vertical_alignment="center", gap="medium")
    parts = (document["domain"], document["parent"] or document["id"], document["source"])
    known = [escape_markdown(shorten(str(part), 60)) for part in parts if part]
    row.markdown(f"### {' · '.join(known)}", width="stretch")
    which = f"of the {count(len(listed), 'listed document')}"
    document_steps(row, "cluster", _ways(document["id"], listed), open_document, which)
    losses = in_each(reading.runs, lambda run: f"{document[loss_column(run)]:.2f}")
    below.caption(
        f"{count(reading.num_tokens, 'token')}, loss {losses} nats a token",
        width="content",
    )
    below.page_link(
        routes.ROUTING,
        label="Token routing of this document",
        icon=":material/alt_route:",
        query_params=slots.params() | routes.routing_of_document(document["id"], token),
    )


def _ways(now: str, listed: Sequence[str]) -> Around:
    """To the listed documents before and after; to the first if `now` is not listed."""
    if now in listed:
        return around(listed, listed.index(now))
    first = next(iter(listed), None)
    return first, first


def open_document(document: str, token: int | None = None) -> None:
    """Read another document, with one of its tokens picked or none."""
    st.session_state[DOCUMENT] = document
    st.session_state[TOKEN] = token


def _colour_controls(
    reading: Reading, clusters: Mapping[str, TokenClusters] | None
) -> tuple[str, int]:
    """What the tokens are coloured by, and the layer whose top expert counts."""
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    options = [BY_CLUSTER, BY_EXPERT] if clusters else [BY_EXPERT]
    by = links.choice(row, "Colour tokens by", options, COLOUR, what=COLOURING)
    last = reading.numbers[-1]
    if by == BY_CLUSTER:
        return by, last
    what = "layer of the text"
    layer = links.choice(row, "Layer", reading.numbers, LAYER, default=last, what=what)
    return by, layer


def _token_clusters(reading: Reading) -> dict[str, TokenClusters] | None:
    """The stored token clusters of the runs; None, and a sentence, if one cannot be used."""
    found = {}
    for run in reading.runs:
        path = assets.token_clusters_path(run.id)
        try:
            stored = _stored(path, assets.content(path))
            what = f"The token clusters of {run.label}"
            freshness.check(what, stored.origins, documents=False)
            stored.check(reading.recordings[run.id].router_probs)
        except ValueError as error:
            command = commands.each(commands.CLUSTERS, [run.id])
            said = str(error) if isinstance(error, freshness.Stale) else escape_markdown(str(error))
            way = missing.in_words(command)
            st.info(f"{said} Tokens are coloured by their top expert. This makes it: {way}")
            return None
        found[run.id] = stored
    return found


@st.cache_resource(max_entries=4, show_spinner=False)
def _stored(path: Path, key: str) -> TokenClusters:
    return load_token_clusters(path)


def _coloured(
    reading: Reading,
    run: str,
    by: str,
    layer: int,
    clusters: Mapping[str, TokenClusters] | None,
) -> Coloured:
    recording = reading.recordings[run]
    if by == BY_CLUSTER and clusters:
        stored = clusters[run]
        found = stored.assign(recording.router_probs[:, 1:])
        names = [f"{cluster}: {with_quotes(stored.labels[cluster])}" for cluster in found]
    else:
        routed = max(reading.routed[run])
        best = recording.expert_ids[reading.place(layer), 1:, 0]
        names = [
            expert_name(layer * routed + int(expert), routed) if expert >= 0 else NO_EXPERT
            for expert in best
        ]
    groups = colour_groups(names)
    of_token = {int(row): group for group in groups for row in group.rows}
    return Coloured(groups, [of_token[row] for row in range(len(names))], names)


def _pane(run: Run, reading: Reading, coloured: Coloured, token: int | None, groups: str) -> None:
    picked = coloured.of_token[token - 1] if token else None
    largest = max(coloured.groups, key=lambda group: len(group.rows))
    tokens, sizes = len(coloured.names), Counter(coloured.names)
    st.markdown(
        f"**{escape_markdown(run.label)}** · the largest of {len(sizes)} {groups} holds "
        f"{share(max(sizes.values()) / tokens)} of the tokens"
    )
    token_strip(
        [_token(reading, coloured, row, picked) for row in range(tokens)],
        token,
        mark_colour=(picked or largest).colour,
        pixels=STRIP_PIXELS,
        key=f"cluster_strip_{run.id}",
        on_pick=_pick,
    )
    _legend(coloured, picked)


def _token(reading: Reading, coloured: Coloured, row: int, picked: Group | None) -> StripToken:
    piece, group = reading.pieces[row + 1], coloured.of_token[row]
    alpha = FADED_TINT if picked is not None and group is not picked else TINT
    return StripToken(
        text=visible(piece),
        title=f"{group.sign} {coloured.names[row]}\n{reading.labels[row + 1]}",
        colour=with_alpha(group.colour, alpha),
        marked=group is picked,
        sign=not piece or not piece.strip() and "\n" in piece,
        breaks=piece.count("\n"),
    )


def _pick(position: int | None) -> None:
    st.session_state[TOKEN] = position


def _legend(coloured: Coloured, picked: Group | None) -> None:
    """Colour, sign, name and share of every group; of a picked one in bold, the others' signs pale.

    Letters keep their full ink, as pale ones cannot be read.
    """
    items = [_entry(coloured, group, picked) for group in coloured.groups]
    st.html(
        '<div style="display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.82rem;'
        f'line-height:1.5">{"".join(items)}</div>'
    )


def _entry(coloured: Coloured, group: Group, picked: Group | None) -> str:
    weight, ink = ("bold", 1) if group is picked else ("normal", 1 if picked is None else FADED)
    return (
        f'<span style="font-weight:{weight}">'
        f'<span aria-hidden="true" style="color:{group.colour};opacity:{ink}">{group.sign}</span> '
        f"{escape_html(shorten(group.name, 70))} "
        f"({share(len(group.rows) / len(coloured.names))})</span>"
    )


def _explanation(
    by: str, layer: int, runs: Comparison, clusters: Mapping[str, TokenClusters] | None
) -> str:
    both = ", in both models" if len(runs) > 1 else ""
    if by == BY_EXPERT or not clusters:
        return (
            f"The top expert of a token in layer {layer} is the routed expert with its largest "
            f"gate weight. Pick a token to see its group alone{both}."
        )
    first = clusters[runs.first.id]
    held = in_each(runs, lambda run: share(clusters[run].modal_share.mean))
    own = " Numbers and colours are each model's own." if len(runs) > 1 else ""
    return (
        f"{len(first.centroids)} token clusters a model, from the routing of {first.tokens:,} "
        f"tokens of {first.documents:,} documents in all layers. Mean share of a document's tokens "
        f"in its largest cluster: {held}.{own} Pick a token to see its cluster alone{both}."
    )
