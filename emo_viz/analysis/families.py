"""Many domains as a few families: a colour stands for a family, a marker for a domain in it.

Names that begin alike ("code_go", "code_lisp") are a family; the rest go by how alike they are
routed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.vectors import unit_rows

MOST_FAMILIES = 6


def families(
    names: Sequence[str], routing: Mapping[str, NDArray[np.floating]], most: int = MOST_FAMILIES
) -> dict[str, int]:
    """The family of each of the different `names`, numbered from 0 by their first names.

    routing: by name, the mean routing [F] of what it stands for. At most `most` families; as many
    names or fewer are a family each.
    """
    ordered = sorted(set(names))
    if len(ordered) <= most:
        return {name: place for place, name in enumerate(ordered)}
    groups = _by_prefix(ordered)[: most - 1]
    rest = [name for name in ordered if not any(name in group for group in groups)]
    if rest:
        groups += _by_routing(rest, routing, most - len(groups))
    groups.sort(key=min)
    return {name: place for place, group in enumerate(groups) for name in sorted(group)}


def mean_routing(
    groups: Sequence[str], rows: NDArray[np.floating]
) -> dict[str, NDArray[np.float32]]:
    """The mean of rows [N, F] of each group, by its name; groups: that of each row [N]."""
    names = np.asarray(groups)
    found = {}
    for name in dict.fromkeys(groups):
        mean: NDArray[np.float32] = rows[names == name].mean(axis=0, dtype=np.float32)
        found[name] = mean
    return found


def _by_prefix(names: Sequence[str]) -> list[list[str]]:
    """Names that share what stands before their first "_", the largest families first."""
    found = defaultdict(list)
    for name in names:
        prefix, line, _ = name.partition("_")
        if prefix and line:
            found[prefix].append(name)
    return sorted((group for group in found.values() if len(group) > 1), key=len, reverse=True)


def _by_routing(
    names: Sequence[str], routing: Mapping[str, NDArray[np.floating]], most: int
) -> list[list[str]]:
    """Up to `most` families of names that are routed alike."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(names) <= most:
        return [[name] for name in names]
    rows = np.stack([np.asarray(routing[name], np.float64) for name in names])
    tree = linkage(unit_rows(rows - rows.mean(axis=0)).astype(np.float64), "ward")
    found = defaultdict(list)
    for name, family in zip(names, fcluster(tree, most, "maxclust"), strict=True):
        found[int(family)].append(name)
    return list(found.values())
