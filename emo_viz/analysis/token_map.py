"""Flat maps of single tokens by their routing: the same sample of tokens in both models.

The places are found once, by `python -m emo_viz token-map`. What a token says is not stored but
read from its document: the map holds where in the text it begins and ends.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.arrays import check_shape, damaged, load_arrays, save_arrays
from emo_viz.analysis.origins import Origins
from emo_viz.analysis.projection import content_key, procrustes
from emo_viz.analysis.tokens import TokenClusters

FORMAT = "emo-viz-token-map"
FORMAT_VERSION = 1
PER_DOMAIN = 200
MODELS = ("emo", "standard")

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
    """By model ("emo", "standard"): the place [N, 2] and the token cluster [N] of every token.

    key: the `map_key` of what it was made from. info: how it was made.
    """

    key: str
    sample: Sample
    places: dict[str, NDArray[np.float32]]
    clusters: dict[str, Integers]
    info: dict[str, Any]

    @property
    def origins(self) -> Origins:
        """The models and documents that the map is of, as far as its file says."""
        return Origins.from_dict(self.info.get("origins", {}))


def map_key(ids: Sequence[str], texts: Sequence[str], clusters: Mapping[str, TokenClusters]) -> str:
    """A hash of documents and of the token clusters of both models."""
    return content_key([*ids, *texts], *(clusters[name].centroids for name in MODELS))


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
    rows: Mapping[str, NDArray[np.floating]],
    clusters: Mapping[str, TokenClusters],
    flatten: Callable[[NDArray[np.floating]], NDArray[np.float32]],
    key: str,
    info: dict[str, Any],
) -> TokenMap:
    """The map of both models' `token_rows` [N, L * R], the standard model's turned onto EMO's.

    flatten: makes places [N, 2] of rows.
    """
    places = {name: flatten(rows[name]) for name in MODELS}
    places["standard"] = procrustes(places["standard"], places["emo"])
    found = {name: clusters[name].assign_rows(rows[name]) for name in MODELS}
    return TokenMap(key, sample, places, found, info)


def save_token_map(path: Path, token_map: TokenMap) -> None:
    """Write the map as one .npz file, under a temporary name first."""
    arrays: dict[str, NDArray[Any]] = {
        name: values.astype(np.int32) for name, values in vars(token_map.sample).items()
    }
    for name in MODELS:
        arrays[f"{name}_places"] = token_map.places[name]
        arrays[f"{name}_clusters"] = token_map.clusters[name].astype(np.int16)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": token_map.key}
    save_arrays(path, arrays, head | token_map.info)


def load_token_map(path: Path) -> TokenMap:
    """Read a map. Raises ValueError if there is none, or it is damaged or of another version."""
    arrays, info = load_arrays(path, FORMAT, FORMAT_VERSION)
    with damaged(path):
        places = {name: arrays.pop(f"{name}_places") for name in MODELS}
        whole = {name: _integers(values) for name, values in arrays.items()}
        clusters = {name: whole.pop(f"{name}_clusters") for name in MODELS}
        found = TokenMap(str(info.pop("key")), Sample(**whole), places, clusters, info)
        _check(found)
    return found


def _integers(values: NDArray[Any]) -> Integers:
    if values.dtype.kind not in "iu":
        raise ValueError("numbers of documents, tokens and clusters are whole")
    return values.astype(np.int64)


def _check(found: TokenMap) -> None:
    """Raises ValueError unless every token has a place, a cluster and a piece of a text."""
    count = check_shape(found.sample.documents, None)
    whole = [*vars(found.sample).values(), *found.clusters.values()]
    for values in whole:
        check_shape(values, count)
    for values in found.places.values():
        check_shape(values, count, 2)
    if min(values.min(initial=0) for values in whole) < 0:
        raise ValueError("numbers of documents, tokens and clusters are 0 or more")
    _ = found.origins
