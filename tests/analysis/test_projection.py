"""Flat maps: alignment of two maps, and what is stored."""

import numpy as np
import pytest

from emo_viz.analysis.arrays import load_arrays, save_arrays
from emo_viz.analysis.origins import Weights
from emo_viz.analysis.projection import (
    Maps,
    content_key,
    load_maps,
    pca_map,
    place_labels,
    procrustes,
    save_maps,
    unit_scale,
)


def points(seed=0, n=30):
    return np.random.default_rng(seed).normal(size=(n, 2)) * [3.0, 1.0] + [5.0, -2.0]


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_procrustes_recovers_a_known_rotation(mirror):
    target = points()
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = 2.5 * target @ turn * [1.0, mirror] + [10.0, 20.0]
    assert procrustes(moved, target) == pytest.approx(target, abs=1e-4)


def test_procrustes_of_unrelated_maps_keeps_the_size():
    target, other = unit_scale(points(0)), unit_scale(points(1))
    aligned = procrustes(other, target)
    assert np.linalg.norm(aligned) == pytest.approx(np.linalg.norm(target), rel=1e-5)
    assert np.linalg.norm(aligned - target) <= np.linalg.norm(other - target)


def test_maps_of_different_documents_cannot_be_aligned():
    with pytest.raises(ValueError, match="30 and 29 documents"):
        procrustes(points(n=30), points(n=29))


def test_pca_map_shows_the_largest_spread_first():
    rows = np.random.default_rng(0).normal(size=(200, 6)) * [0.1, 5.0, 0.1, 2.0, 0.1, 0.1]
    flat = pca_map(rows)
    assert np.abs(np.corrcoef(flat[:, 0], rows[:, 1])[0, 1]) > 0.99
    assert np.abs(np.corrcoef(flat[:, 1], rows[:, 3])[0, 1]) > 0.99
    assert np.square(flat).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-5)
    assert flat.mean(axis=0) == pytest.approx([0, 0], abs=1e-5)


def test_pca_map_of_documents_on_a_line_is_flat():
    flat = pca_map(np.outer(np.arange(5.0), [1.0, 2.0, 3.0]))
    assert flat.shape == (5, 2) and not flat[:, 1].any()


def test_content_key_tells_documents_and_recordings_apart():
    usage = np.ones((2, 1, 3), np.float16)
    key = content_key(["a", "b"], usage)
    assert key == content_key(["a", "b"], usage.copy())
    assert len({key, content_key(["b", "a"], usage), content_key(["a", "b"], 2 * usage)}) == 3


IDS, USAGE = ["a", "b", "c", "d"], np.ones((4, 2, 3), np.float16)


def test_stored_maps_come_back(tmp_path):
    """Runs may have different numbers of layers."""
    places = {"one": np.ones((3, 4, 2), np.float32), "two/": np.zeros((1, 4, 2), np.float32)}
    usages = {"one": USAGE, "two/": 2 * USAGE}
    keys = {run: content_key(IDS, usage) for run, usage in usages.items()}
    save_maps(tmp_path / "new" / "maps.npz", Maps(keys, places, {"seed": 7}))
    read = load_maps(tmp_path / "new" / "maps.npz")
    assert list(read.places) == ["one", "two/"] and read.info == {"seed": 7}
    assert (read.places["one"] == 1).all() and read.places["two/"].shape == (1, 4, 2)
    assert read.are_of(IDS, usages) and read.are_of(IDS, {"two/": 2 * USAGE})
    assert not read.are_of(IDS, {"two/": USAGE}) and not read.are_of(IDS[::-1], usages)
    assert not read.are_of(IDS, {"three": USAGE})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["maps.npz"]


def test_maps_of_version_1_are_those_of_the_bundled_runs(tmp_path):
    usages = {"emo-nano": USAGE, "std-nano": 2 * USAGE}
    key, path = content_key(IDS, *usages.values()), tmp_path / "maps.npz"
    said = {"models": {"emo": {"name": "e", "sha256": "1"}}}
    info = {"format": "emo-viz-maps", "format_version": 1, "key": key, "origins": said}
    arrays = {name: np.full((3, 4, 2), i, np.float32) for i, name in enumerate(("emo", "standard"))}
    save_arrays(path, arrays, info)
    read = load_maps(path)
    assert read.places["std-nano"].all() and not read.places["emo-nano"].any()
    assert read.origins.models == {"emo-nano": Weights("e", "1")}
    assert read.are_of(IDS, usages)
    assert not read.are_of(IDS, usages | {"std-nano": USAGE})
    save_maps(path, read)
    assert load_maps(path).info == read.info


def test_unreadable_maps_say_what_is_wrong(tmp_path):
    path = tmp_path / "maps.npz"
    with pytest.raises(ValueError, match="no file maps.npz"):
        load_maps(path)
    save_arrays(path, {"emo": np.ones(3)}, {"format": "emo-viz-maps", "format_version": 99})
    with pytest.raises(ValueError, match="emo-viz-maps 99"):
        load_maps(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        load_maps(path)
    np.savez(path, emo=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="damaged"):
        load_maps(path)


def test_objects_are_neither_written_nor_read(tmp_path):
    info = {"format": "f", "format_version": 1}
    with pytest.raises(ValueError, match="[Oo]bject"):
        save_arrays(tmp_path / "a.npz", {"bad": np.array([{}], dtype=object)}, info)
    assert not list(tmp_path.iterdir())
    np.savez(tmp_path / "b.npz", bad=np.array([{}], dtype=object), info=np.array("{}"))
    with pytest.raises(ValueError):
        load_arrays(tmp_path / "b.npz", "f", 1)


def test_labels_name_groups_where_most_of_them_lie_together():
    rng = np.random.default_rng(0)
    places = {"dense": (-1.5, 0.0), "looser": (1.5, 0.0), "hidden": (-1.48, 0.0)}
    sizes = {"dense": 50, "looser": 50, "hidden": 40, "spread": 50, "two places": 60}
    groups = np.repeat(list(sizes), list(sizes.values()))
    rows = [np.array(places[n]) + 0.05 * rng.normal(size=(sizes[n], 2)) for n in places]
    apart = np.repeat([[0.0, -3.0], [0.0, 3.0]], [20, 40], axis=0)
    rows += [8 + 3 * rng.normal(size=(50, 2)), apart + 0.01 * rng.normal(size=(60, 2))]
    found = place_labels(np.concatenate(rows), groups)
    labels = {label.text: (label.x, label.y) for label in found}
    assert set(labels) == {"dense", "looser", "two places"}  # "hidden" lies under "dense"
    assert labels["looser"] == pytest.approx((1.5, 0), abs=0.05)
    assert labels["two places"] == pytest.approx((0, 3), abs=0.05)


def test_a_group_is_named_at_its_own_place_though_more_of_it_lie_under_another():
    places = np.repeat([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]], [50, 20, 10], axis=0)
    groups = np.repeat(["large", "small"], [50, 30])
    found = {label.text: (label.x, label.y) for label in place_labels(places, groups)}
    assert found == {"large": (0, 0), "small": (3, 0)}


def test_every_group_can_be_named():
    places = np.repeat([[0.0, 0.0]], 30, axis=0)
    groups = np.repeat(["large", "small"], [20, 10])
    assert [label.text for label in place_labels(places, groups)] == ["large"]
    assert {label.text for label in place_labels(places, groups, every=True)} == {"large", "small"}


def test_names_of_maps_with_a_single_point_or_place():
    (label,) = place_labels(np.zeros((1, 2), np.float32), ["alone"])
    assert (label.text, label.x, label.y) == ("alone", 0, 0)
    assert len(place_labels(np.zeros((4, 2), np.float32), list("aabb"))) == 2
