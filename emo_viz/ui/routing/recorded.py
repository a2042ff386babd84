"""Token routing page of a trace without a checkpoint: all of it that needs no weights.

What the trace lacks is said in one line, with what would give it.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.routing import half_load
from emo_viz.analysis.widths import in_words
from emo_viz.figures import recorded as figures
from emo_viz.figures.theme import SELECTION_COLOUR, SEQUENTIAL, chart_config, colour_at
from emo_viz.server import recordings
from emo_viz.trace import absent
from emo_viz.ui.parts.strip import StripToken, token_strip
from emo_viz.ui.parts.token_text import recorded_pieces
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.address import one_of
from emo_viz.ui.shell.words import count, escape_markdown, shorten, token_label, visible

if TYPE_CHECKING:
    from emo_viz.trace import Trace
    from emo_viz.trace.absent import Part
    from emo_viz.trace.recorded import RecordedDocument

DOCUMENT, LAYER, TOKEN = "recorded_choice", routes.ROUTING_LAYER, routes.ROUTING_TOKEN
EXPERT, COLOUR = routes.ROUTING_EXPERT, routes.ROUTING_COLOUR
# What this page would show of a token, if it were there.
SHOWN: tuple["Part", ...] = ("token_texts", "gate_weights", "entropy", "loss")
MOST_TOKENS = 2048  # in the strip: a browser holds more, but slowly
TEXT_PIXELS = 420
DEEPEST = 0.75
NO_VALUE = "rgba(0, 0, 0, 0)"
ENTROPY, LOSS, PLAIN = "Router entropy", "Loss", "None"


def draw(names: Sequence[str]) -> None:
    """The page of one of these traces."""
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    name = links.select(row, "Run", names, routes.RUN) if len(names) > 1 else names[0]
    trace = recordings.opened(name)
    document = _document(row, trace)
    _answer(trace, document)
    _what_is_absent(trace)
    if trace.has_tokens:
        _tokens(trace, document)
    else:
        _use(trace, document)
    _notes(trace)


def _document(row: Any, trace: "Trace") -> int:
    ids = trace.facts["id"].tolist()
    kind = one_of("document", ids, always=True)
    links.enter(DOCUMENT, kind, ids[0], routes.ROUTING_DOCUMENT)
    chosen = row.selectbox(f"Document ({len(ids):,})", ids, key=DOCUMENT, on_change=_forget)
    links.leave(DOCUMENT, kind, chosen, ids[0], routes.ROUTING_DOCUMENT)
    return ids.index(chosen)


def _forget() -> None:
    """Another text has other tokens."""
    st.session_state[TOKEN] = None


def _used(trace: "Trace", document: int) -> NDArray[np.floating]:
    """[L, R]: the share of tokens that chose each expert, or where that is not known of choices."""
    used = trace.activation if trace.has("activation") else trace.usage
    return np.asarray(used[document], np.float32)


def _answer(trace: "Trace", document: int) -> None:
    model, used = trace.manifest.model, _used(trace, document)
    own = [layer for layer, experts in enumerate(model.routed) if experts]  # those with a router
    used = used[own]
    known = "" if trace.has("num_experts") else "at least "
    st.markdown(
        "## In a layer, half of this text's routing goes to "
        f"**{half_load(used).mean():.1f}** of {known}"
        f"{in_words([model.routed[layer] for layer in own])} experts."
    )
    tokens = trace.facts["n_tokens"][document]
    size = "" if pd.isna(tokens) else f"{count(int(tokens), 'token')}, "
    distinct = (used > 0).sum(axis=1).mean()
    st.caption(
        f"{escape_markdown(model.name)}, recorded elsewhere "
        f"({escape_markdown(trace.manifest.source or 'by this program')}): {size}mean over "
        f"{count(len(own), 'layer')}; distinct routed experts {distinct:.1f}."
    )


def _what_is_absent(trace: "Trace") -> None:
    """In one line what is not shown, and what would need to be here."""
    lacking = [part for part in SHOWN if not trace.has(part)] if trace.has_tokens else ["tokens"]
    said = absent.sentence(trace.path.name, *cast("list[Part]", lacking))
    rest = "Your own texts, next tokens and cuts need the model's checkpoint."
    st.info(f"{escape_markdown(said)} {rest}".strip(), icon=":material/visibility_off:")


def _notes(trace: "Trace") -> None:
    notes = trace.manifest.notes
    if notes:
        with st.expander(f"What the import met ({len(notes)})"):
            st.markdown("\n".join(f"- {escape_markdown(note)}" for note in notes))


@st.fragment
def _tokens(trace: "Trace", document: int) -> None:
    """The text, the chosen token and the experts: what follows layer, token and expert."""
    with links.fragment():
        _explore(trace, document, trace.recorded(document))


def _explore(trace: "Trace", document: int, recorded: "RecordedDocument") -> None:
    model = trace.manifest.model
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        own = links.select(st, "Layer", model.own_layers, LAYER)
        layer = model.own_layers.index(own)
        tokens = recorded.expert_ids.shape[1] - 1
        token = links.number_or_none(st, "token", "Token", tokens, TOKEN, placeholder="none")
        experts = [str(expert) for expert in range(model.routed[layer])]
        expert = links.select_or_none(
            st, "expert", "Expert to follow", experts, EXPERT, placeholder="none"
        )
        colours = [*_measures(trace), PLAIN]
        colour = links.select(st, "Colour of the text", colours, COLOUR)
    followed = None if expert is None else int(expert)
    _strip(trace, recorded, layer, token, followed, colour)
    if token is not None:
        _experts_of(trace, recorded, token)
    _use(trace, document, None if followed is None else (layer, followed))


def _measures(trace: "Trace") -> list[str]:
    parts: dict[str, Part] = {ENTROPY: "entropy", LOSS: "loss"}
    return [name for name, part in parts.items() if trace.has(part)]


def _strip(
    trace: "Trace",
    recorded: "RecordedDocument",
    layer: int,
    token: int | None,
    expert: int | None,
    colour: str,
) -> None:
    pieces, values = recorded_pieces(recorded), _values(recorded, layer, colour)
    marked = (recorded.expert_ids[layer] == expert).any(axis=1) if expert is not None else None
    shown = range(1, min(len(pieces), MOST_TOKENS + 1))
    token_strip(
        [
            StripToken(
                text=visible(pieces[place]),
                title=f"Token {place}: {token_label(pieces[place])}",
                colour=NO_VALUE
                if np.isnan(values[place])
                else colour_at(SEQUENTIAL, values[place]),
                marked=marked is not None and bool(marked[place]),
                sign=pieces[place].isspace() and "\n" in pieces[place],
                breaks=pieces[place].count("\n"),
            )
            for place in shown
        ],
        token,
        mark_colour=SELECTION_COLOUR,
        selection_colour=SELECTION_COLOUR,
        pixels=TEXT_PIXELS,
        key="recorded_strip",
        on_pick=_pick,
    )
    said = [] if trace.has("token_texts") else ["Tokens are shown by their ids or places."]
    if len(pieces) - 1 > MOST_TOKENS:
        said.append(f"The first {MOST_TOKENS:,} of {len(pieces) - 1:,} tokens are shown.")
    if marked is not None:
        own = trace.manifest.model.own_layers[layer]
        used = count(int(marked[1:].sum()), "token")
        said.append(f"Underlined: the {used} routed to expert {expert} in layer {own}.")
    st.caption(" ".join(said))


def _pick(position: int | None) -> None:
    st.session_state[TOKEN] = position


def _values(recorded: "RecordedDocument", layer: int, colour: str) -> NDArray[np.float64]:
    """A place on the colour scale for every position; NaN: none."""
    values = np.full(recorded.expert_ids.shape[1], np.nan)
    with suppress(absent.Absent):  # this document may lack what others have
        if colour == ENTROPY:
            values = recorded.entropy[layer].astype(np.float64)
        elif colour == LOSS:
            values = recorded.loss.astype(np.float64)
    if not np.isnan(values).all():
        low, top = np.nanmin(values), np.nanmax(values)
        values = (values - low) / ((top - low) or 1.0) * DEEPEST
    return values


def _experts_of(trace: "Trace", recorded: "RecordedDocument", token: int) -> None:
    """A row a layer and choice of one token."""
    ids = recorded.expert_ids[:, token]
    layers, choices = np.nonzero(ids >= 0)
    own = np.array(trace.manifest.model.own_layers)
    columns: dict[str, Any] = {
        "Layer": own[layers],
        "Choice": choices + 1,
        "Expert": ids[layers, choices],
    }
    with suppress(absent.Absent):
        columns["Gate weight"] = recorded.gate_weights[layers, token, choices].round(4)
    st.dataframe(
        pd.DataFrame(columns),
        hide_index=True,
        key="recorded_experts",
        alt=f"The routed experts of token {token} in every layer.",
    )


def _use(trace: "Trace", document: int, followed: tuple[int, int] | None = None) -> None:
    model = trace.manifest.model
    of = "tokens" if trace.has("activation") else "choices"
    st.plotly_chart(
        figures.expert_use(_used(trace, document), model.routed, model.own_layers, of, followed),
        key="recorded_use",
        config=chart_config("expert use"),
        alt=f"The share of {of} of document {shorten(str(trace.facts['id'][document]), 60)} that "
        f"each expert has in each of {count(model.num_layers, 'layer')}.",
    )
