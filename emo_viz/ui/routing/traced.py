"""Token routing page: a document of one trace or two, as the page reads what models do with a text.

Shapes: L layers, T positions (the first is the opening token), K expert slots a token; the id -1
stands for none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.routed import Layers, Numbered, common_layers, known
from emo_viz.analysis.routing import text_routing
from emo_viz.analysis.runs import Comparison, Facts
from emo_viz.ui.parts.reading import MOST_TOKENS, Chosen, Reading
from emo_viz.ui.parts.token_text import recorded_pieces
from emo_viz.ui.shell.words import token_label

if TYPE_CHECKING:
    from emo_viz.trace import Trace
    from emo_viz.trace.recorded import RecordedDocument


@dataclass(frozen=True, eq=False)
class Traced:
    """What a trace says of a document, in the shapes of a `model.run.inference.Recording`.

    Of what it does not say: token ids are -1, entropy and loss NaN, a gate weight is 1. Nothing is
    said of the router's probabilities and of next tokens.
    """

    token_ids: NDArray[np.integer]
    router_probs: NDArray[np.floating]
    expert_ids: NDArray[np.integer]
    gate_weights: NDArray[np.floating]
    entropy: NDArray[np.floating]
    loss: NDArray[np.floating]
    next_ids: NDArray[np.integer]
    next_probs: NDArray[np.floating]


def layers_of(runs: Comparison, traces: Mapping[str, "Trace"]) -> Layers:
    """The layers with experts, of two traces those that both have.

    Raises ValueError, one sentence, if there is none.
    """
    numbered = [Numbered.of_trace(traces[run.id]) for run in runs]
    labels = [run.label for run in runs]
    return common_layers(numbered[0], numbered[-1], (labels[0], labels[-1]))


def same_tokens(one: "RecordedDocument", other: "RecordedDocument") -> bool:
    """Whether two traces can be of the same tokens, as far as is known."""
    if one.expert_ids.shape[1] != other.expert_ids.shape[1]:
        return False
    ours, theirs = (known(each, "token_ids") for each in (one, other))
    return ours is None or theirs is None or bool((ours[1:] == theirs[1:]).all())


def read(
    runs: Comparison,
    traces: Mapping[str, "Trace"],
    documents: Mapping[str, "RecordedDocument"],
    layers: Layers,
    chosen: Chosen,
) -> Reading:
    """A document of the traces, by run id; of a very long one the first tokens."""
    places = dict(zip(runs.ids, (layers.first, layers.second), strict=False))
    recordings = {run: _traced(documents[run], places[run]) for run in runs.ids}
    models = {run: traces[run].manifest.model for run in runs.ids}
    routed = {run: tuple(models[run].routed[at] for at in places[run]) for run in runs.ids}
    named = next((run for run in runs.ids if traces[run].has("token_texts")), runs.first.id)
    pieces = recorded_pieces(documents[named])
    return Reading(
        runs=Comparison(tuple(replace(run, facts=Facts(routed[run.id])) for run in runs)),
        chosen=chosen,
        pieces=pieces[: MOST_TOKENS + 1],
        labels=_labels(pieces[: MOST_TOKENS + 1], traces[named].has("token_texts")),
        dropped_tokens=max(0, len(pieces) - 1 - MOST_TOKENS),
        exact=True,
        dropped_characters=0,
        recordings=recordings,
        routing={run: text_routing(one) for run, one in recordings.items()},
        routed=routed,
        shared={run: model.num_shared_experts for run, model in models.items()},
        tokenizer=None,
        layer_numbers=layers.names,
        unweighed=frozenset(run for run in runs.ids if not _weighed(documents[run])),
        at_least=not all(traces[run].has("num_experts") for run in runs.ids),
    )


def _labels(pieces: Sequence[str], written: bool) -> list[str]:
    """What each token is called; ids and places have a space that is not theirs."""
    return [token_label(piece if written else piece.strip()) for piece in pieces]


def _weighed(document: "RecordedDocument") -> bool:
    return known(document, "gate_weights") is not None


def _traced(document: "RecordedDocument", layers: Sequence[int]) -> Traced:
    ids = document.expert_ids[list(layers), : MOST_TOKENS + 1]
    tokens = ids.shape[1]
    none = np.full(tokens, np.nan, np.float32)
    weights, entropy = known(document, "gate_weights"), known(document, "entropy")
    token_ids, loss = known(document, "token_ids"), known(document, "loss")
    return Traced(
        token_ids=np.full(tokens, -1) if token_ids is None else token_ids[:tokens],
        router_probs=np.empty((len(layers), tokens, 0), np.float32),
        expert_ids=ids,
        gate_weights=(ids >= 0).astype(np.float32)
        if weights is None
        else weights[list(layers), :tokens],
        entropy=np.broadcast_to(none, ids.shape[:2])
        if entropy is None
        else entropy[list(layers), :tokens],
        loss=none if loss is None else loss[:tokens],
        next_ids=np.empty((tokens, 0), np.int64),
        next_probs=np.empty((tokens, 0), np.float32),
    )
