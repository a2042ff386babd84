"""One text as both models read it: the tokens, what was recorded, and what of it was cut off."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from emo_viz.analysis.routing import TextRouting, text_routing
from emo_viz.analysis.widths import routed_by_layer
from emo_viz.server import assets, library
from emo_viz.server.library import LoadedModel, Pair
from emo_viz.ui.parts.token_text import text_labels
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell.words import count, escape_markdown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.run.inference import Encoded, Recording


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


def read(pair: Pair, chosen: Chosen) -> Reading:
    """Encode the text and record both models on it; ends the page for a text without tokens."""
    context = min(
        *(assets.model_facts(name).context for name in assets.MODEL_FOLDERS),
        *(one.model.config.max_position_embeddings for one in pair),
    )
    encoded = tokens_of(pair, chosen.text, context)
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


def tokens_of(pair: Pair, text: str, most: int) -> "Encoded":
    """A text as up to `most` tokens, EOS counted; ends the page for a text without any."""
    try:
        return library.encoded(pair.emo, text, most)
    except ValueError as error:
        st.warning(escape_markdown(str(error)))
        st.stop()


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


def _recorded_once(loaded: LoadedModel, token_ids: np.ndarray) -> "Recording":
    return _recorded(loaded, loaded.key, token_ids)


@st.cache_resource(max_entries=64, show_spinner=False)
def _recorded(_loaded: LoadedModel, key: str, token_ids: np.ndarray) -> "Recording":
    from model.run.inference import record

    with run_exclusive(_loaded):
        return record(_loaded.model, token_ids)
