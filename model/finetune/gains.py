"""What a fine-tuning gained and what it cost elsewhere, with intervals over documents.

Losses are in nats a token. A gain is the parent's loss less the tuned model's, paired by document;
on other domains a gain below 0 is what was forgotten.

Shapes: D documents, C measures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluate.intervals import Span, domain_means, span
from model.finetune.texts import Measured

PARENT, TUNED, MODULE = "parent", "tuned", "/module"
UNSEEN = 0.01  # a document with a larger share of sequences that trained is not "unseen"

Losses = Mapping[str, NDArray[np.float64]]
"""By the model that read them ("parent", "tuned", with "/module": by its module alone), [D]."""


def summary(losses: Losses, measured: Measured, apart: bool = True) -> dict[str, Any]:
    """Means with intervals of the losses and of what each tuned model gained over its parent.

    apart: the plain mean over domains, documents drawn inside each; else all documents are one
    group, as those of domains with too few to draw from.
    """
    columns = dict(losses)
    columns |= {
        f"gain{name.removeprefix(TUNED)}": losses[PARENT] - loss
        for name, loss in losses.items()
        if name.startswith(TUNED)
    }
    groups = {"all": np.ones(len(measured.ids), bool), "unseen": np.array(measured.seen) < UNSEEN}
    return {
        group: _spans(columns, measured, kept, apart)
        | {"documents": int(kept.sum()), "tokens": int(measured.counts[kept].sum())}
        for group, kept in groups.items()
        if kept.any()
    }


def _spans(
    columns: Losses, measured: Measured, kept: NDArray[np.bool_], apart: bool
) -> dict[str, Span]:
    losses_DC = np.stack([column[kept] for column in columns.values()], 1)
    places_D = _places(measured.domains)[kept] * apart
    means, drawn = domain_means(losses_DC, measured.counts[kept], places_D)
    return {name: span(float(means[i]), drawn[:, i]) for i, name in enumerate(columns)}


def _places(domains: Sequence[str]) -> NDArray[np.int64]:
    names = sorted(set(domains))
    return np.array([names.index(name) for name in domains], np.int64)


def kept_shares(
    losses: Losses,
    full: NDArray[np.float64],
    tokens_D: NDArray[np.float64],
    domains: Sequence[str],
) -> dict[str, Span]:
    """The share of a full fine-tuning's gain that each tuned model has, on the same documents.

    full: losses of the model that was tuned in full. domains: of the documents [D]; the gains are
    the plain means over them, as those of `summary`. {} if the full one gained nothing.
    """
    names = [name for name in losses if name.startswith(TUNED)]
    columns = [losses[PARENT] - full, *(losses[PARENT] - losses[name] for name in names)]
    means, drawn = domain_means(np.stack(columns, 1), tokens_D, _places(domains))
    if means[0] <= 0:
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = drawn[:, 1:] / drawn[:, :1]
    return {
        name: span(float(means[i + 1] / means[0]), shares[:, i]) for i, name in enumerate(names)
    }


def check_full(known: Mapping[str, Any], full: Mapping[str, Any], name: str) -> None:
    """Raises ValueError unless `full` is the full fine-tuning that a result is to be held against:
    of the same parent, corpus, domains and held-out documents.

    known: the result, or as much of it as is known before it is there, its format at the least.
    """
    if full.get("format") != known["format"] or full.get("what") != "all":
        raise ValueError(f"{name} is no result of --what all; give the full fine-tuning's.")
    for part, words in (
        ("parent", "another checkpoint"),
        ("corpus", "another corpus"),
        ("domains", "another domain"),
        ("documents", "other held-out documents"),
    ):
        theirs, own = full.get(part), known.get(part)
        if part == "parent":  # the folder may have been moved; the weights tell
            theirs, own = (_weights(each) for each in (theirs, own))
        if part in known and theirs != own:
            raise ValueError(f"{name} is of {words}; run --what all with the same options.")


def unlike(result: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the full fine-tuning trained on more or less of: its number of each, and the result's.

    {} if both took as many steps of as many tokens: only then does a share of the gain compare
    what was trained alone.
    """
    own, theirs = (each.get("request", {}) for each in (result, full))
    names = ("steps", "rows", "context")
    return {
        name: [theirs.get(name), own.get(name)]
        for name in names
        if theirs.get(name) != own.get(name)
    }


def in_words(found: Sequence[float]) -> str:
    """A mean with its interval, as a command prints it."""
    return f"{found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]"


def _weights(parent: Any) -> Any:
    return parent.get("weights_sha256") if isinstance(parent, dict) else None


def rounded(losses: Losses) -> dict[str, list[float]]:
    """As a result keeps them."""
    return {name: np.round(loss, 5).tolist() for name, loss in losses.items()}


def as_losses(kept: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.float64]]:
    """What `rounded` wrote."""
    return {name: np.array(loss, np.float64) for name, loss in kept.items()}
