"""Flat maps of documents: UMAP, computed once by `python -m emo_viz map`, and PCA at once.

Maps are made one at a time, so their orientation means nothing by itself: every map is turned,
mirrored, shifted and resized onto the first run's map of all layers (Procrustes).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from emo_viz.analysis.runs import from_version_1
from emo_viz.analysis.vectors import fit_pca, unit_rows

FORMAT = "emo-viz-maps"
FORMAT_VERSION = 2
UMAP_COMPONENTS = 50
# Wide, so that the documents of a dense group stay apart: on 1,152 documents it keeps neighbours
# as well as the usual 1.0 (trustworthiness 0.996 either way) and shows more than 24 dots.
UMAP_SPREAD = 1.5
FEWEST_POINTS = 4  # of fewer, UMAP's first placing (three eigenvectors) fails
# In units of a map, whose points have a root mean square distance of 1 from its middle.
NEAR = 0.25  # points this close lie together
HELD = 0.1  # share of a group that has to lie together to be named


@dataclass(frozen=True)
class Label:
    """A text and its place on a map."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Maps:
    """Aligned coordinates [1 + L, D, 2] of the same documents, by run id; L may differ.

    The first map of a run is of all layers, the others of one layer each. keys: by run id, the
    `content_key` of the documents and of its usage; empty where pair_key, that of the documents and
    of the usages of all runs, says it (version 1). info: how the maps were made.
    """

    keys: dict[str, str]
    places: dict[str, NDArray[np.float32]]
    info: dict[str, Any]
    pair_key: str = ""

    @property
    def origins(self) -> Origins:
        """The models and documents that the maps are of, as far as their file says."""
        return Origins.from_dict(self.info.get("origins", {}))

    def are_of(self, ids: Iterable[str], usages: Mapping[str, NDArray[np.floating]]) -> bool:
        """Whether these are maps of the documents with these ids as recorded in usages, by run."""
        names = list(ids)
        if self.pair_key:
            whole = usages.keys() == self.places.keys()
            return whole and self.pair_key == content_key(names, *(usages[r] for r in self.places))
        return all(self.keys.get(r) == content_key(names, usage) for r, usage in usages.items())


def content_key(ids: Iterable[str], *usages: NDArray[np.floating]) -> str:
    """A hash of document ids in their order and of what was recorded of them."""
    digest = hashlib.sha256("\n".join(map(str, ids)).encode("utf-8", "surrogatepass"))
    for usage in usages:
        digest.update(np.ascontiguousarray(usage).tobytes())
    return digest.hexdigest()


def pca_map(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """The two coordinates [D, 2] of largest variance of rows [D, F], scaled by `unit_scale`."""
    return pca_scale(fit_pca(rows, components=2).project(rows))


def pca_scale(coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first two of a PCA's coordinates [D, C] as a map [D, 2], scaled by `unit_scale`."""
    flat = coordinates[:, :2]
    return unit_scale(np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))))


def umap_map(
    rows: NDArray[np.floating], neighbours: int, min_dist: float, seed: int
) -> NDArray[np.float32]:
    """UMAP [D, 2] of rows [D, F] after a 50-component PCA to unit length, by `unit_scale`.

    Raises ValueError for fewer than FEWEST_POINTS rows, and for rows that are not finite.
    """
    from umap import UMAP

    if not np.isfinite(rows).all():
        raise ValueError("The routing holds NaN or infinity; record it again with a whole model.")
    if len(rows) < FEWEST_POINTS:
        raise ValueError(f"{len(rows)} points make no map; it takes at least {FEWEST_POINTS}.")
    vectors = unit_rows(fit_pca(rows, components=UMAP_COMPONENTS).project(rows))
    fit = UMAP(
        n_neighbors=neighbours,
        min_dist=min_dist,
        spread=UMAP_SPREAD,
        random_state=seed,
        n_jobs=1,
    )
    return unit_scale(fit.fit_transform(vectors))


def unit_scale(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Points [D, 2] with mean 0 and root mean square distance 1 from it."""
    centred = points - points.mean(axis=0)
    size = np.sqrt(np.square(centred).sum(axis=1).mean())
    scaled: NDArray[np.float32] = (centred / (size or 1.0)).astype(np.float32)
    return scaled


def procrustes(points: NDArray[np.floating], onto: NDArray[np.floating]) -> NDArray[np.float32]:
    """Points [D, 2] turned, mirrored and shifted to lie closest to `onto` [D, 2], at its size.

    Row i of both is the same document. The size is matched, not fitted: a fitted one would shrink
    maps that have little in common. Raises ValueError for different shapes.
    """
    if points.shape != onto.shape:
        raise ValueError(
            f"Maps of {len(points)} and {len(onto)} documents cannot be aligned; use the same ones."
        )
    centred, target = points - points.mean(axis=0), onto - onto.mean(axis=0)
    left, _, right = np.linalg.svd(centred.T.astype(np.float64) @ target)
    scale = np.linalg.norm(target) / (np.linalg.norm(centred) or 1.0)
    moved: NDArray[np.float32] = scale * centred @ (left @ right) + onto.mean(axis=0)
    return moved.astype(np.float32)


def place_labels(
    points: NDArray[np.floating], groups: Sequence[str], every: bool = False
) -> list[Label]:
    """Names of the groups of points [D, 2], each where most of its own lie, densest first.

    A place where no other group has more points goes before a denser one. Unless `every` group is
    to be named, one that has no such place with a share of HELD of its points gets no label.
    """
    from scipy.spatial import cKDTree

    names, member = np.unique(np.asarray(groups), return_inverse=True)
    trees = [cKDTree(points[member == number]) for number in range(len(names))]
    found = []
    for tree, name in zip(trees, names, strict=True):
        own = tree.data
        near = tree.query_ball_point(own, NEAR, return_length=True)
        clear = _are_clear(own, near, trees)
        if not every and not clear.any():
            continue
        best = int(np.where(clear, len(own) + near, near).argmax())
        middle = np.median(own[tree.query_ball_point(own[best], NEAR)], axis=0)
        found.append((near[best] / len(own), Label(str(name), *map(float, middle))))
    return [label for _, label in sorted(found, key=lambda each: -each[0])]


def _are_clear(
    own: NDArray[np.floating], near: NDArray[np.int64], trees: Sequence[Any]
) -> NDArray[np.bool_]:
    """Around which of a group's points [N, 2] a share of HELD of them lies (near [N]) and no other
    group, each in a tree of its own, has more."""
    clear: NDArray[np.bool_] = near >= HELD * len(own)
    dense = own[clear]
    if len(dense):
        around = [tree.query_ball_point(dense, NEAR, return_length=True) for tree in trees]
        clear[clear] = near[clear] == np.max(around, axis=0)
    return clear


def save_maps(path: Path, maps: Maps) -> None:
    """Write the maps as one .npz file, under a temporary name first."""
    about = head(FORMAT, FORMAT_VERSION, maps.places, maps.keys, maps.pair_key)
    save_arrays(path, by_number("places", maps.places), about | maps.info)


def load_maps(path: Path) -> Maps:
    """Read maps. Raises ValueError if there are none, or they are damaged or of another version."""
    arrays, info = load_arrays(path, FORMAT, 1, FORMAT_VERSION)
    with damaged(path):
        maps = _version_1(arrays, info) if info["format_version"] == 1 else _read(arrays, info)
        shapes = [check_shape(places, None, None, 2) for places in maps.places.values()]
        documents = {places.shape[1] for places in maps.places.values()}
        if min(shapes) < 1 or len(documents) != 1:
            raise ValueError("the maps are of different numbers of documents, or there are none")
        _ = maps.origins
    return maps


def _read(arrays: Arrays, info: dict[str, Any]) -> Maps:
    keys, pair_key = read_keys(info)
    return Maps(keys, of_runs("places", arrays, info["runs"]), said(info), pair_key)


def _version_1(arrays: Arrays, info: dict[str, Any]) -> Maps:
    about = said(info) | {"origins": version_1(info.get("origins", {}))}
    return Maps({}, from_version_1(arrays), about, pair_key=str(info["key"]))
