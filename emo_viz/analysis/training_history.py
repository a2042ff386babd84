"""How routing came to be: what checkpoints of one training run do with the same documents.

A file holds, of every checkpoint, the documents' mean router probabilities (8 bits each), their
losses with K experts of their domain, and how modular the routing is. Made by
`python -m emo_viz training-history`.

Shapes: C checkpoints, D documents, K notches, L layers, R routed experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.arrays import Arrays, check_shape, damaged, load_arrays, save_arrays
from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.projection import unit_scale
from emo_viz.analysis.vectors import fit_pca

FORMAT = "emo-viz-training-history"
FORMAT_VERSION = 1
PATTERN = "training-*.npz"
LEVELS = 255  # of a router probability, by its square root: small ones are told apart too
DOCUMENT_NMI, TOKEN_NMI, MODAL_SHARE = "document_nmi", "token_nmi", "modal_share"
MEASURES = (DOCUMENT_NMI, TOKEN_NMI, MODAL_SHARE)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Documents:
    """What is told of the documents [D]: domain, source, the beginning of the text, tokens."""

    ids: tuple[str, ...]
    domains: tuple[str, ...]
    sources: tuple[str, ...]
    openings: tuple[str, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Moment:
    """One checkpoint. weights: the digest of its file. usage [D, L, R]: mean router probabilities.
    losses [D, K]: mean nats a token at every notch, the last with all experts. measures: by name,
    with 95 % intervals over documents."""

    step: int
    weights: str
    usage: NDArray[np.float32]
    losses: NDArray[np.float32]
    measures: Mapping[str, Interval]


@dataclass(frozen=True, eq=False)
class History:
    """Checkpoints of one run, by step. key: of the documents, calibration and notches: moments of
    one key belong together. about: a sentence on which run it is. tokens_per_step: None where not
    known. keeps: experts of a layer at each notch, the last all of them."""

    run: str
    about: str
    key: str
    documents: Documents
    calibration: int
    keeps: tuple[int, ...]
    tokens_per_step: int | None
    moments: tuple[Moment, ...]

    @property
    def steps(self) -> list[int]:
        return [moment.step for moment in self.moments]


def write_history(path: Path, history: History) -> None:
    """Write a history, all or nothing. Raises ValueError if it cannot be written."""
    moments = history.moments
    coded = [encode_usage(moment.usage) for moment in moments]
    arrays: Arrays = {
        "usage": np.stack([code for code, _ in coded]),
        "scale": np.array([scale for _, scale in coded], np.float32),
        "losses": np.stack([moment.losses for moment in moments]).astype(np.float32),
        "measures": np.array(
            [[_span(moment.measures[name]) for name in MEASURES] for moment in moments], np.float32
        ),
    }
    info = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "run": history.run,
        "about": history.about,
        "key": history.key,
        "documents": vars(history.documents),
        "calibration": history.calibration,
        "keeps": history.keeps,
        "tokens_per_step": history.tokens_per_step,
        "steps": history.steps,
        "weights": [moment.weights for moment in moments],
    }
    save_arrays(path, arrays, info)


def read_history(path: Path) -> History:
    """A history as it was written. Raises ValueError for a file that holds none."""
    arrays, info = load_arrays(path, FORMAT, FORMAT_VERSION)
    with damaged(path):
        fields = {name: tuple(values) for name, values in info["documents"].items()}
        documents = Documents(**fields)
        steps, weights = list(map(int, info["steps"])), list(map(str, info["weights"]))
        keeps = tuple(map(int, info["keeps"]))
        count, sizes = len(steps), {len(values) for values in fields.values()}
        size = check_shape(arrays["losses"][0], None, len(keeps))
        check_shape(arrays["losses"], count, size, len(keeps))
        check_shape(arrays["usage"], count, size, None, None)
        check_shape(arrays["scale"], count)
        check_shape(arrays["measures"], count, len(MEASURES), 3)
        if sizes != {size} or len(weights) != count or sorted(set(steps)) != steps:
            raise ValueError("documents or steps do not fit")
        moments = tuple(
            Moment(
                steps[c],
                weights[c],
                decode_usage(arrays["usage"][c], float(arrays["scale"][c])),
                arrays["losses"][c],
                {
                    name: _interval(arrays["measures"][c, m], size)
                    for m, name in enumerate(MEASURES)
                },
            )
            for c in range(count)
        )
        tokens = info["tokens_per_step"]
        return History(
            str(info["run"]),
            str(info["about"]),
            str(info["key"]),
            documents,
            int(info["calibration"]),
            keeps,
            None if tokens is None else int(tokens),
            moments,
        )


def _span(interval: Interval) -> list[float]:
    ends = np.nan_to_num([interval.low, interval.high], nan=interval.mean)  # of one document: none
    return [interval.mean, *ends.tolist()]


def _interval(values: NDArray[np.floating], documents: int) -> Interval:
    mean, low, high = map(float, values)
    return Interval(mean, low, high, documents)


def encode_usage(usage: NDArray[np.floating]) -> tuple[NDArray[np.uint8], float]:
    """Probabilities as 8 bits each, by their square roots, and the largest one."""
    scale = float(usage.max()) or 1.0
    return np.round(LEVELS * np.sqrt(usage / scale)).astype(np.uint8), scale


def decode_usage(coded: NDArray[np.uint8], scale: float) -> NDArray[np.float32]:
    """What `encode_usage` was given, to half a level."""
    return ((coded.astype(np.float32) / LEVELS) ** 2 * np.float32(scale)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Projection:
    """Places [C, D, 2] of the documents at every checkpoint; share: of the variance of all of them
    together that the two axes show."""

    places: NDArray[np.float32]
    share: float


def project(history: History) -> Projection:
    """One PCA of the documents at all checkpoints together, so that points move as routing does.

    The square roots of the probabilities are projected (their distances are Hellinger's), so that
    experts that are hardly used count too.
    """
    roots = [np.sqrt(moment.usage).reshape(len(moment.usage), -1) for moment in history.moments]
    rows = np.concatenate(roots)
    pca = fit_pca(rows, components=2)
    flat = pca.project(rows)
    flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    return Projection(unit_scale(flat).reshape(len(roots), -1, 2), pca.explained)


def increases(history: History) -> NDArray[np.float64]:
    """What every cut adds to the loss at every checkpoint: mean over domains with the ends of its
    95 % interval over documents [C, K, 3], nats a token; the last notch is 0."""
    from model.evaluate.intervals import domain_means, span

    names = sorted(set(history.documents.domains))
    domains = np.array([names.index(each) for each in history.documents.domains])
    tokens = np.array(history.documents.tokens, np.float64)
    found = []
    for moment in history.moments:
        means, drawn = domain_means(moment.losses.astype(np.float64), tokens, domains)
        found.append(
            [
                span(float(means[k] - means[-1]), drawn[:, k] - drawn[:, -1])
                for k in range(len(history.keeps))
            ]
        )
    return np.array(found)


def whole_losses(history: History) -> list[float]:
    """The loss with all experts at every checkpoint, mean over domains, nats a token."""
    domains, tokens = np.array(history.documents.domains), np.array(history.documents.tokens)
    found = []
    for moment in history.moments:
        own = [
            np.average(moment.losses[domains == name, -1], weights=tokens[domains == name])
            for name in sorted(set(history.documents.domains))
        ]
        found.append(float(np.mean(own)))
    return found


def merged(kept: Sequence[Moment], made: Sequence[Moment]) -> tuple[Moment, ...]:
    """Moments by step; of one step what was made counts."""
    by_step = {moment.step: moment for moment in (*kept, *made)}
    return tuple(by_step[step] for step in sorted(by_step))


def facts(history: History) -> dict[str, Any]:
    """Numbers of every checkpoint as a table: steps, losses, increases, measures."""
    cuts = increases(history)
    columns: dict[str, Any] = {"step": history.steps, "loss, all experts": whole_losses(history)}
    for place, keep in enumerate(history.keeps[:-1]):
        columns[f"increase at {keep}"] = cuts[:, place, 0]
    for name in MEASURES:
        columns[name] = [moment.measures[name].mean for moment in history.moments]
    return columns
