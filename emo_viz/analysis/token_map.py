"""Flat maps of single tokens by their routing: the same sample of tokens in every run.

The places are found once, by `python -m emo_viz token-map`. What a token says is not stored but
read from its document: the map holds where in the text it begins and ends.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.arrays import (
    Arrays,
    by_number,
    check_shape,
    damaged,
    head,
    load_arrays,
    of_runs,
    read_keys,
    said,
    save_arrays,
)
from emo_viz.analysis.origins import Origins, version_1
from emo_viz.analysis.projection import content_key, procrustes
from emo_viz.analysis.runs import from_version_1
from emo_viz.analysis.tokens import TokenClusters

FORMAT = "emo-viz-token-map"
FORMAT_VERSION = 3
PER_DOMAIN = 200
NUMBERS = "layer_numbers"
LEVELS = 255  # of a router probability's square root, as it is stored

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """N tokens of documents, in the documents' order.

    documents [N]: row of the document; positions [N]: 1 for the first token after the opening EOS;
    starts, ends [N]: the characters of the document's text that the token stands for, none for
    a token that continues a character.
    """

    documents: Integers
    positions: Integers
    token_ids: Integers
    starts: Integers
    ends: Integers


@dataclass(frozen=True)
class TokenMap:
    """By run id: the place [N, 2] and the token cluster [N] of every token.

    layer_places [L, N, 2]: the same by the routing of one layer. routing [N, L, R]: the `LEVELS` of
    the router probabilities, read by `probabilities`. numbers: by run id, the model's own number of
    each of these layers. Files before version 3 have none of the three, and they are empty. keys:
    by run id, the `map_key` of what it was made from; empty where pair_key, that of all runs, says
    it (version 1). info: how it was made.
    """

    keys: dict[str, str]
    sample: Sample
    places: dict[str, NDArray[np.float32]]
    clusters: dict[str, Integers]
    info: dict[str, Any]
    pair_key: str = ""
    layer_places: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    routing: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    numbers: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def probabilities(self, run: str) -> NDArray[np.float32]:
        """Router probabilities [N, L, R] of a run's tokens, to a 255th of their square roots; those
        of a layer sum to 1. Raises KeyError where the file has none."""
        roots = self.routing[run].astype(np.float32)
        squares = roots * roots
        found: NDArray[np.float32] = squares / np.maximum(squares.sum(axis=2, keepdims=True), 1)
        return found

    @property
    def origins(self) -> Origins:
        """The models and documents that the map is of, as far as its file says."""
        return Origins.from_dict(self.info.get("origins", {}))

    def is_of(
        self, ids: Sequence[str], texts: Sequence[str], clusters: Mapping[str, TokenClusters]
    ) -> bool:
        """Whether this is a map of these documents and, by run id, token clusters."""
        if self.pair_key:
            if clusters.keys() != self.places.keys():
                return False
            return self.pair_key == map_key(ids, texts, *(clusters[run] for run in self.places))
        return all(self.keys.get(run) == map_key(ids, texts, one) for run, one in clusters.items())


def map_key(ids: Sequence[str], texts: Sequence[str], *clusters: TokenClusters) -> str:
    """A hash of documents and of token clusters."""
    return content_key([*ids, *texts], *(each.centroids for each in clusters))


def sample_tokens(
    domains: Sequence[str],
    token_ids: Sequence[NDArray[np.integer]],
    pieces: Sequence[Sequence[str]],
    per_domain: int = PER_DOMAIN,
    seed: int = 0,
) -> Sample:
    """`per_domain` tokens of every domain, or all of them where there are fewer.

    token_ids, pieces: for every document [D] its tokens after the EOS, and the part of the text
    that each stands for. Every token of a domain is as likely as any other.
    """
    documents = np.repeat(np.arange(len(token_ids)), [len(each) for each in token_ids])
    groups, rng = np.asarray(domains)[documents], np.random.default_rng(seed)
    own = [np.flatnonzero(groups == domain) for domain in sorted(set(domains))]
    drawn = [rng.choice(rows, min(per_domain, len(rows)), replace=False) for rows in own]
    rows = np.sort(np.concatenate(drawn))
    lengths = [np.array([len(piece) for piece in each], np.int64) for each in pieces]
    ends = np.concatenate([np.cumsum(each) for each in lengths])[rows]
    return Sample(
        documents=documents[rows],
        positions=np.concatenate([1 + np.arange(len(each)) for each in token_ids])[rows],
        token_ids=np.concatenate(token_ids)[rows].astype(np.int64),
        starts=ends - np.concatenate(lengths)[rows],
        ends=ends,
    )


def lay_out(
    sample: Sample,
    routing: Mapping[str, NDArray[np.floating]],
    numbers: Mapping[str, Sequence[int]],
    clusters: Mapping[str, TokenClusters],
    flatten: Callable[[NDArray[np.floating]], NDArray[np.float32]],
    keys: Mapping[str, str],
    info: dict[str, Any],
) -> TokenMap:
    """The maps of every run, by all layers and by each, all turned onto the first run's first.

    routing: router probabilities [N, L, R]; numbers: the model's own number of each layer. flatten:
    makes places [N, 2] of rows [N, columns].
    """
    rows = {run: own.reshape(len(own), -1) for run, own in routing.items()}
    places = {run: flatten(own) for run, own in rows.items()}
    first = next(iter(places.values()))
    turned = {run: own if own is first else procrustes(own, first) for run, own in places.items()}
    return TokenMap(
        keys=dict(keys),
        sample=sample,
        places=turned,
        clusters={run: clusters[run].assign_rows(own) for run, own in rows.items()},
        info=info,
        layer_places={
            run: np.stack([_by_layer(layer, flatten, first) for layer in own.swapaxes(0, 1)])
            for run, own in routing.items()
        },
        routing={
            run: np.rint(LEVELS * np.sqrt(own.astype(np.float32))).astype(np.uint8)
            for run, own in routing.items()
        },
        numbers={run: tuple(map(int, own)) for run, own in numbers.items()},
    )


def _by_layer(
    rows: NDArray[np.floating],
    flatten: Callable[[NDArray[np.floating]], NDArray[np.float32]],
    first: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Places [N, 2] by one layer's rows [N, R]; all in one where one expert serves all."""
    if (rows == rows[:1]).all():
        return np.zeros((len(rows), 2), np.float32)
    return procrustes(flatten(rows), first)


def save_token_map(path: Path, token_map: TokenMap) -> None:
    """Write the map as one .npz file, under a temporary name first."""
    arrays: dict[str, NDArray[Any]] = {
        name: values.astype(np.int32) for name, values in vars(token_map.sample).items()
    }
    small = {run: values.astype(np.int16) for run, values in token_map.clusters.items()}
    arrays |= by_number("places", token_map.places) | by_number("clusters", small)
    arrays |= by_number("layer_places", token_map.layer_places)
    arrays |= by_number("routing", token_map.routing)
    keys, pair_key = token_map.keys, token_map.pair_key
    about = head(FORMAT, FORMAT_VERSION, token_map.places, keys, pair_key)
    about |= {NUMBERS: [list(own) for own in token_map.numbers.values()]}
    save_arrays(path, arrays, about | token_map.info)


def load_token_map(path: Path) -> TokenMap:
    """Read a map. Raises ValueError if there is none, or it is damaged or of another version."""
    arrays, info = load_arrays(path, FORMAT, 1, 2, FORMAT_VERSION)
    with damaged(path):
        found = _version_1(arrays, info) if info["format_version"] == 1 else _read(arrays, info)
        _check(found)
    return found


def _read(arrays: Arrays, info: dict[str, Any]) -> TokenMap:
    runs = info["runs"]
    clusters = {run: _integers(own) for run, own in of_runs("clusters", arrays, runs).items()}
    keys, pair_key = read_keys(info)
    found = TokenMap(
        keys, _sample(arrays), of_runs("places", arrays, runs), clusters, _made(info), pair_key
    )
    if info["format_version"] < 3 or not info[NUMBERS]:
        return found
    numbers = [tuple(map(int, own)) for own in info[NUMBERS]]
    return replace(
        found,
        layer_places=of_runs("layer_places", arrays, runs),
        routing=of_runs("routing", arrays, runs),
        numbers=dict(zip(found.places, numbers, strict=True)),
    )


def _made(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said(info).items() if name != NUMBERS}


def _version_1(arrays: Arrays, info: dict[str, Any]) -> TokenMap:
    names = [name.removesuffix("_places") for name in arrays if name.endswith("_places")]
    places = from_version_1({name: arrays[f"{name}_places"] for name in names})
    clusters = from_version_1({name: _integers(arrays[f"{name}_clusters"]) for name in names})
    about = said(info) | {"origins": version_1(info.get("origins", {}))}
    return TokenMap({}, _sample(arrays), places, clusters, about, pair_key=str(info["key"]))


def _sample(arrays: Arrays) -> Sample:
    return Sample(**{each.name: _integers(arrays[each.name]) for each in fields(Sample)})


def _integers(values: NDArray[Any]) -> Integers:
    if values.dtype.kind not in "iu":
        raise ValueError("numbers of documents, tokens and clusters are whole")
    return values.astype(np.int64)


def _check(found: TokenMap) -> None:
    """Raises ValueError unless every token has a place, a cluster and a piece of a text."""
    count = check_shape(found.sample.documents, None)
    if not found.places:
        raise ValueError("a map is of at least one run")
    whole = [*vars(found.sample).values(), *found.clusters.values()]
    for values in whole:
        check_shape(values, count)
    for values in found.places.values():
        check_shape(values, count, 2)
    if min(values.min(initial=0) for values in whole) < 0:
        raise ValueError("numbers of documents, tokens and clusters are 0 or more")
    for run, numbers in found.numbers.items():
        check_shape(found.routing[run], count, len(numbers), None)
        check_shape(found.layer_places[run], len(numbers), count, 2)
        if found.routing[run].dtype != np.uint8 or not found.routing[run].shape[2]:
            raise ValueError("routing is stored in bytes")
    _ = found.origins
