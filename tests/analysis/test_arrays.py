"""Files of arrays: written whole, and whatever is wrong with one is a sentence that names it."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emo_viz.analysis.arrays import load_arrays, save_arrays
from emo_viz.analysis.projection import load_maps
from emo_viz.analysis.token_map import load_token_map
from emo_viz.analysis.tokens import load_token_clusters

INFO = {"format": "f", "format_version": 1}
READERS = {
    "maps": load_maps,
    "token_map": load_token_map,
    "clusters-emo-nano": load_token_clusters,
}


def not_a_zip(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 and nothing more")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def a_byte_changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"info": 1}))


def pickled_inside(path: Path) -> None:
    np.savez(path, allow_pickle=True, info=np.array(json.dumps(INFO)), a=np.array([{}], object))


def without_info(path: Path) -> None:
    np.savez(path, a=np.ones(3))


def info_is_no_object(path: Path) -> None:
    np.savez(path, info=np.array("[1, 2]"))


def a_shape_that_no_memory_holds(path: Path) -> None:
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
    with zipfile.ZipFile(path, "w") as file, file.open("info.npy", "w") as inside:
        np.lib.format.write_array_header_1_0(inside, header)


DAMAGE = [
    not_a_zip, cut_off, a_byte_changed, empty, one_array, pickled, pickled_inside, without_info,
    info_is_no_object, a_shape_that_no_memory_holds,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(tmp_path: Path, damage):
    path = tmp_path / "arrays.npz"
    save_arrays(path, {"a": np.random.default_rng(0).random(999)}, INFO)
    damage(path)
    with pytest.raises(ValueError, match=r"^arrays.npz is damaged; it must be made again\.$"):
        load_arrays(path, "f", 1)


def test_what_is_written_comes_back_and_other_files_are_named(tmp_path: Path):
    path = tmp_path / "new" / "arrays.npz"
    save_arrays(path, {"a": np.arange(3)}, INFO)
    arrays, info = load_arrays(path, "f", 1)
    assert arrays["a"].tolist() == [0, 1, 2] and info == INFO
    assert [each.name for each in path.parent.iterdir()] == ["arrays.npz"]
    with pytest.raises(ValueError, match="has the format f 1 and f 2 is needed"):
        load_arrays(path, "f", 2)
    with pytest.raises(ValueError, match="There is no file none.npz"):
        load_arrays(tmp_path / "none.npz", "f", 1)
    with pytest.raises(ValueError, match=r"new cannot be read \(Is a directory\)"):
        load_arrays(path.parent, "f", 1)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "arrays.npz"
    save_arrays(path, {"a": np.arange(3)}, INFO)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        save_arrays(path, {"a": np.array([{}], object)}, INFO)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def rewrite(path: Path, name: str, change) -> None:
    """Change one array, or the description ("info"), of a file."""
    with np.load(path) as file:
        arrays = dict(file)
    if name == "info":
        arrays["info"] = np.array(json.dumps(change(json.loads(str(arrays["info"])))))
    else:
        arrays[name] = change(arrays[name])
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    values.flat[0] = np.nan
    return values


def below_zero(values: np.ndarray) -> np.ndarray:
    return values - values.max() - 1


def shorter(values: np.ndarray) -> np.ndarray:
    return values[:-1]


def gone(values: np.ndarray) -> None:
    return None


def words(values: np.ndarray) -> np.ndarray:
    return values.astype(str)


def without(key: str):
    return lambda info: {name: value for name, value in info.items() if name != key}


def instead(key: str, value: object):
    return lambda info: info | {key: value}


@pytest.mark.parametrize(
    ("file", "name", "change"),
    [
        ("maps", "places_0", with_nan),
        ("maps", "places_1", lambda values: values[:, :-1]),
        ("maps", "places_0", gone),
        ("maps", "places_0", words),
        ("maps", "info", without("keys")),
        ("maps", "info", without("runs")),
        ("maps", "info", instead("runs", [])),
        ("maps", "info", instead("origins", [1])),
        ("token_map", "documents", shorter),
        ("token_map", "documents", below_zero),
        ("token_map", "clusters_0", below_zero),
        ("token_map", "places_1", with_nan),
        ("token_map", "places_0", gone),
        ("token_map", "starts", words),
        ("token_map", "info", instead("origins", {"models": {"emo-nano": {"name": "a"}}})),
        ("clusters-emo-nano", "mean", shorter),
        ("clusters-emo-nano", "components", with_nan),
        ("clusters-emo-nano", "centroids", shorter),
        ("clusters-emo-nano", "shares", gone),
        ("clusters-emo-nano", "domain_influence", shorter),
        ("clusters-emo-nano", "info", without("labels")),
        ("clusters-emo-nano", "info", without("run")),
        ("clusters-emo-nano", "info", instead("labels", ["one"])),
        ("clusters-emo-nano", "info", instead("agreements", {"domain": 1})),
        ("clusters-emo-nano", "info", instead("modal_share", {"mean": 1})),
        ("clusters-emo-nano", "info", instead("made", {"model": "emo-nano"})),
        ("clusters-emo-nano", "info", instead("documents", None)),
    ],
)
def test_parts_that_do_not_fit_each_other_are_damage(
    tiny_assets: Path, tmp_path: Path, file: str, name: str, change
):
    path = tmp_path / f"{file}.npz"
    path.write_bytes((tiny_assets / "analysis" / path.name).read_bytes())
    READERS[file](path)
    rewrite(path, name, change)
    with pytest.raises(ValueError, match=f"^{path.name} is damaged; it must be made again"):
        READERS[file](path)
