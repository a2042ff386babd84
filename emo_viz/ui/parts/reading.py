"""One text as the models read it: the tokens, what was recorded, and what of it was cut off."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import streamlit as st

from emo_viz.analysis.routing import TextRouting, text_routing
from emo_viz.analysis.runs import Comparison
from emo_viz.server import assets, library
from emo_viz.server.library import LoadedModel, Models
from emo_viz.ui.parts import together
from emo_viz.ui.parts.token_text import text_labels
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell import missing
from emo_viz.ui.shell.words import count, escape_markdown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.run.inference import Encoded, Recording


MOST_TOKENS = 2048  # of a text at once, where a model takes more: a browser holds more, but slowly


@dataclass(frozen=True)
class Chosen:
    """A text to read, in words where it comes from (safe for Markdown), the id of a
    document, and what of it is not here.
    """

    text: str
    origin: str
    document: str | None = None
    rest: str = ""


class Recorded(Protocol):
    """What a run did with a text: a `model.run.inference.Recording`, or what a trace says of one;
    what that lacks is NaN, or has no entries. Shapes as there."""

    @property
    def token_ids(self) -> np.ndarray: ...
    @property
    def router_probs(self) -> np.ndarray: ...
    @property
    def expert_ids(self) -> np.ndarray: ...
    @property
    def gate_weights(self) -> np.ndarray: ...
    @property
    def entropy(self) -> np.ndarray: ...
    @property
    def loss(self) -> np.ndarray: ...
    @property
    def next_ids(self) -> np.ndarray: ...
    @property
    def next_probs(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Reading:
    """One text as the models of one tokenizer and of as many layers read it, or as traces say that
    they did.

    pieces: the texts of the tokens, "" for EOS; labels: what each is called, also where it is only
    a part of a character. recordings, routing and routed (routed experts of each layer) are by run
    id, in the order of `runs`. absent: sentences on what a run does not say of a text.
    whole_context: whether a long text is cut where the models end, not where this page does.
    tokenizer: None of traces. layer_numbers: what the layers are called, if not 0, 1, 2, ...
    unweighed: runs without gate weights, in which an expert that is used counts 1. at_least:
    whether there may be more experts than those that are known.
    """

    runs: Comparison
    chosen: Chosen
    pieces: list[str]
    labels: list[str]
    dropped_tokens: int
    exact: bool
    dropped_characters: int
    recordings: Mapping[str, Recorded]
    routing: dict[str, TextRouting]
    routed: dict[str, tuple[int, ...]]
    shared: dict[str, int]
    tokenizer: "PreTrainedTokenizerBase | None"
    absent: tuple[str, ...] = ()
    whole_context: bool = True
    layer_numbers: tuple[int, ...] = ()
    unweighed: frozenset[str] = frozenset()
    at_least: bool = False

    def knows(self, run: str, part: Literal["loss", "entropy"]) -> bool:
        """Whether a run says this of the text."""
        values: np.ndarray = getattr(self.recordings[run], part)
        return not np.isnan(values[..., 1:]).all()

    @property
    def knows_losses(self) -> bool:
        """Whether all runs have losses and next tokens."""
        return all(self.knows(run, "loss") for run in self.runs.ids)

    @property
    def num_layers(self) -> int:
        return len(self.routed[self.runs.first.id])

    @property
    def numbers(self) -> tuple[int, ...]:
        """What each layer is called."""
        return self.layer_numbers or tuple(range(self.num_layers))

    def place(self, number: int) -> int:
        """Of the layer of that number."""
        return self.numbers.index(number)

    @property
    def even_routed(self) -> tuple[int, ...] | None:
        """Routed experts of each layer, where all runs have as many."""
        counts = set(self.routed.values())
        return counts.pop() if len(counts) == 1 else None

    @property
    def num_tokens(self) -> int:
        """Tokens of the text, the opening EOS not counted."""
        return len(self.pieces) - 1


def read(models: Models, chosen: Chosen) -> Reading:
    """Encode the text and record the models on it; ends the page for a text without tokens.

    Models that do not compare token by token and layer by layer are shown one at a time.
    """
    together.say_left_out(models.left_out)
    models = models.of(together.shown(models.comparison, "tokens", "layers"))
    limits = [_context(one, models.comparison) for one in models]
    most = min([limit for limit in limits if limit is not None], default=MOST_TOKENS)
    encoded = tokens_of(models.first, chosen.text, min(most, MOST_TOKENS))
    key = repr((models.comparison, [one.key for one in models], chosen, most))
    return _read(key, models, chosen, encoded, most)


@st.cache_resource(max_entries=32, show_spinner=False)
def _read(key: str, _models: Models, _chosen: Chosen, _encoded: "Encoded", _most: int) -> Reading:
    """The same object for whoever reads the same text; what is drawn of it is kept beside it."""
    models, chosen, encoded, most = _models, _chosen, _encoded, _most
    recordings = {one.run: _recorded_once(one, encoded.token_ids) for one in models}
    return Reading(
        runs=models.comparison,
        chosen=chosen,
        pieces=encoded.texts,
        labels=text_labels(models.first.tokenizer, encoded.token_ids.tolist(), encoded.texts),
        dropped_tokens=encoded.dropped,
        exact=encoded.exact,
        dropped_characters=len(chosen.text) - sum(map(len, encoded.texts)),
        recordings=recordings,
        routing={name: text_routing(one) for name, one in recordings.items()},
        routed={one.run: one.routed for one in models},
        shared={one.run: int(one.live.geometry.num_shared_experts) for one in models},
        tokenizer=models.first.tokenizer,
        absent=(*(said for one in models for said in absent_of(one)), *_matched(models)),
        whole_context=most <= MOST_TOKENS,
        layer_numbers=models.first.live.own_layers,
    )


def _context(loaded: LoadedModel, runs: Comparison) -> int | None:
    """Tokens of a text that a model takes; of EMO's format at most as many as it was trained with.

    None where that is not known.
    """
    if not loaded.live.is_emo:
        return loaded.live.longest
    known = (assets.model_facts(runs[loaded.run]).context, loaded.live.longest)
    return min((limit for limit in known if limit is not None), default=None)


def absent_of(loaded: LoadedModel) -> Iterator[str]:
    """What a model does not say of a text, and which of its layers have no router: sentences."""
    if loaded.live.absent:
        yield f"{loaded.label} gives {', and '.join(loaded.live.absent)}."
    own = loaded.live.own_layers
    if own != tuple(range(len(own))):
        yield (
            f"Only layers with experts are shown; of {loaded.label} these are the model's own "
            f"layers {', '.join(map(str, own))}."
        )


def _matched(models: Models) -> Iterator[str]:
    """How layers of other numbers stand beside each other: a sentence."""
    if len({one.live.own_layers for one in models}) > 1:
        yield (
            f"Layers are matched in their order, and have the numbers of {models.first.label} here."
        )


def say_absent(sentences: Sequence[str]) -> None:
    """In one line what the models do not say of a text."""
    if sentences:
        st.info(escape_markdown(" ".join(sentences)), icon=":material/visibility_off:")


def tokens_of(loaded: LoadedModel, text: str, most: int) -> "Encoded":
    """A text as up to `most` tokens, EOS counted; ends the page for a text without any."""
    try:
        return library.encoded(loaded, text, most)
    except ValueError as error:
        st.warning(escape_markdown(str(error)))
        missing.end()


def cut_notice(reading: Reading) -> None:
    """Say what of a long text the models have not read."""
    if reading.dropped_tokens:
        st.info(
            f"The text is longer than {_limit(reading)}: its first "
            f"{count(reading.num_tokens, 'token')} are shown, the last "
            f"{'' if reading.exact else 'about '}{count(reading.dropped_tokens, 'token')} "
            f"({count(reading.dropped_characters, 'character')}) are cut off.",
            icon=":material/content_cut:",
        )


def _limit(reading: Reading) -> str:
    if reading.whole_context:
        return "the models' context"
    return f"the {MOST_TOKENS:,} tokens that are read at once"


def _recorded_once(loaded: LoadedModel, token_ids: np.ndarray) -> "Recording":
    return _recorded(loaded, loaded.key, token_ids)


@st.cache_resource(max_entries=64, show_spinner=False)
def _recorded(_loaded: LoadedModel, key: str, token_ids: np.ndarray) -> "Recording":
    with run_exclusive(_loaded):
        return _loaded.live.record(token_ids)
