"""Token routing page: choosing a text, and reading it with both models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.routing import TextRouting, text_routing
from emo_viz.analysis.widths import in_words, routed_by_layer
from emo_viz.ui import assets, links, resources
from emo_viz.ui.address import one_of
from emo_viz.ui.own_text import OwnText
from emo_viz.ui.resources import LoadedModel, Pair
from emo_viz.ui.text import count, escape_markdown, isolated, rest_cut, shorten, visible
from emo_viz.ui.token_text import text_labels
from emo_viz.ui.work import run_exclusive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.run.inference import Recording

BUNDLED, OWN = "Bundled document", "Your own text"
ALL_DOMAINS = "All domains"
SOURCE, DOMAIN = "routing_source", "routing_domain"
DOCUMENT, TOKEN, EXPERT = "routing_choice", "routing_token", "routing_expert"
DOCUMENT_PARAM = "routing_doc"


@dataclass(frozen=True)
class Chosen:
    """A text to read, in words where it comes from (safe for Markdown), the id of a bundled
    document, and what of it is not here.
    """

    text: str
    origin: str
    document: str | None = None
    rest: str = ""


@dataclass(frozen=True, eq=False)
class Reading:
    """One text as both models read it; `pieces` are the texts of the tokens, "" for EOS, `labels`
    what each is called, also where it is only a part of a character.

    recordings and routing have the keys "emo" and "standard", in this order. routed: routed experts
    of each layer, the same in both models.
    """

    chosen: Chosen
    pieces: list[str]
    labels: list[str]
    dropped_tokens: int
    exact: bool
    dropped_characters: int
    recordings: "dict[str, Recording]"
    routing: dict[str, TextRouting]
    routed: tuple[int, ...]
    tokenizer: "PreTrainedTokenizerBase"

    @property
    def num_routed(self) -> int:
        """R: routed experts of the largest layer, as wide as the arrays of the recordings."""
        return max(self.routed)

    @property
    def num_layers(self) -> int:
        return len(self.routed)

    @property
    def num_tokens(self) -> int:
        """Tokens of the text, the opening EOS not counted."""
        return len(self.pieces) - 1


def choose_text(documents: pd.DataFrame) -> Chosen | None:
    """The row of controls that picks a text; None (and a hint) as long as there is none."""
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    source = links.choice(row, "Text", [BUNDLED, OWN], SOURCE, on_change=forget_selection)
    if source != OWN:
        return _bundled_text(documents, row)
    FIELD.file_picker(row)
    return _own_text()


def read(pair: Pair, chosen: Chosen) -> Reading:
    """Encode the text and record both models on it; ends the page for a text without tokens."""
    context = min(
        *(assets.model_facts(name).context for name in assets.MODEL_FOLDERS),
        *(one.model.config.max_position_embeddings for one in pair),
    )
    encoded = resources.encoded(pair.emo, chosen.text, context)
    recordings = {loaded.name: _recorded_once(loaded, encoded.token_ids) for loaded in pair}
    config = pair.emo.model.config
    return Reading(
        chosen=chosen,
        pieces=encoded.texts,
        labels=text_labels(pair.emo.tokenizer, encoded.token_ids.tolist(), encoded.texts),
        dropped_tokens=encoded.dropped,
        exact=encoded.exact,
        dropped_characters=len(chosen.text) - sum(map(len, encoded.texts)),
        recordings=recordings,
        routing={name: text_routing(one) for name, one in recordings.items()},
        routed=routed_by_layer(config),
        tokenizer=pair.emo.tokenizer,
    )


def answer(reading: Reading) -> None:
    """The first line of the page: how the two models route this text, in numbers."""
    emo, standard = (reading.routing[name] for name in ("emo", "standard"))
    st.markdown(
        f"#### In a layer, half of this text's routing goes to **{emo.half.mean():.1f}** of "
        f"{in_words(reading.routed)} experts in EMO, to **{standard.half.mean():.1f}** in the "
        "standard MoE."
    )
    st.caption(
        f"{reading.chosen.origin}, {count(reading.num_tokens, 'token')}{reading.chosen.rest}. Mean "
        f"over {count(reading.num_layers, 'layer')}. EMO and standard MoE: distinct routed experts "
        f"{emo.distinct.mean():.1f} and {standard.distinct.mean():.1f}, router entropy "
        f"{emo.entropy.mean():.2f} and {standard.entropy.mean():.2f} nats, loss "
        f"{emo.mean_loss:.2f} and {standard.mean_loss:.2f} nats a token."
    )


def cut_notice(reading: Reading) -> None:
    """Say what of a long text the models have not read."""
    if reading.dropped_tokens:
        st.info(
            f"The text is longer than the models' context: its first "
            f"{count(reading.num_tokens, 'token')} are shown, the last "
            f"{'' if reading.exact else 'about '}{count(reading.dropped_tokens, 'token')} "
            f"({count(reading.dropped_characters, 'character')}) are cut off.",
            icon=":material/content_cut:",
        )


def forget_selection() -> None:
    """Another text has other tokens: drop the selected one."""
    for key in (TOKEN, EXPERT):
        st.session_state[key] = None


FIELD = OwnText("routing", forget_selection)


def _own_text() -> Chosen | None:
    text = FIELD.ask("which experts each of its tokens uses")
    return None if text is None else Chosen(text, "Your own text")


def _bundled_text(documents: pd.DataFrame, row: DeltaGenerator) -> Chosen:
    domains = [ALL_DOMAINS, *sorted(documents["domain"].unique())]
    domain = links.select(row, "Domain", domains, DOMAIN, on_change=forget_selection, width=210)
    shown = documents if domain == ALL_DOMAINS else documents[documents["domain"] == domain]
    ids = shown["id"].tolist()
    kind = one_of("document", ids, always=True)
    links.enter(DOCUMENT, kind, ids[0], DOCUMENT_PARAM)
    labels = _document_labels(ids, shown["text"].tolist())
    chosen = row.selectbox(
        f"Document ({len(ids):,})",
        ids,
        format_func=labels.__getitem__,
        key=DOCUMENT,
        on_change=forget_selection,
    )
    links.leave(DOCUMENT, kind, chosen, ids[0], DOCUMENT_PARAM)
    steps = row.container(horizontal=True, width="content", gap="small")
    _step_button(steps, ids, -1)
    _step_button(steps, ids, +1)
    document = shown.iloc[ids.index(chosen)]
    rest = rest_cut(document.get("cut_tokens", 0))
    return Chosen(document["text"], _origin(document), chosen, rest)


def _step_button(row: DeltaGenerator, ids: list[str], step: int) -> None:
    """Previous (-1) or next (+1) document, by click or arrow key."""
    name, key = ("previous", "left") if step < 0 else ("next", "right")
    place = ids.index(st.session_state[DOCUMENT]) + step
    row.button(
        "",
        icon=":material/chevron_left:" if step < 0 else ":material/chevron_right:",
        help=f"Go to the {name} document ({key} arrow key)",
        key=f"routing_{name}",
        disabled=not 0 <= place < len(ids),
        on_click=_open_document,
        args=(ids[place % len(ids)],),
    )


def _open_document(document: str) -> None:
    st.session_state[DOCUMENT] = document
    forget_selection()


def _document_labels(ids: list[str], texts: list[str]) -> dict[str, str]:
    """A numbered opening of each document; the number keeps equal openings apart."""
    openings = (
        shorten(" ".join(visible(text[:200]).replace("↵", " ").split()), 90) for text in texts
    )
    return {
        document: f"{number}. {isolated(opening)}"
        for number, (document, opening) in enumerate(zip(ids, openings, strict=True), start=1)
    }


def _origin(row: pd.Series) -> str:
    parts = [row["parent"] or row["id"], row["source"], row["licence"]]
    known = [escape_markdown(shorten(str(part), 80)) for part in parts if part]
    return f"Document of {escape_markdown(row['domain'])} ({', '.join(known)})"


def _recorded_once(loaded: LoadedModel, token_ids: np.ndarray) -> "Recording":
    return _recorded(loaded, loaded.key, token_ids)


@st.cache_resource(max_entries=64, show_spinner=False)
def _recorded(_loaded: LoadedModel, key: str, token_ids: np.ndarray) -> "Recording":
    from model.run.inference import record

    with run_exclusive(_loaded):
        return record(_loaded.model, token_ids)
