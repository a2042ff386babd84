"""One .npz file of arrays with a JSON description inside; nothing in it is ever unpickled."""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.files import new_file

Arrays = dict[str, NDArray[Any]]
# What numpy, zipfile and json say of a file that is not whole or not what it says it is.
DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    RecursionError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_arrays(path: Path, arrays: Arrays, info: dict[str, Any]) -> None:
    """Write `arrays` and `info` (needs "format" and "format_version") to `path`, all or nothing.

    Raises ValueError if it cannot be written.
    """
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, info=np.array(json.dumps(info)), **arrays)


def load_arrays(path: Path, format: str, *versions: int) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the description of a file that `save_arrays` wrote.

    versions: those that can be read; the description says which it is ("format_version"). Raises
    ValueError if there is no such file, if it is damaged, or of another format or version.
    """
    if not path.exists():
        raise ValueError(f"There is no file {path.name}.")
    with damaged(path), np.load(path, allow_pickle=False) as file:
        info = dict(json.loads(str(file["info"])))
        found = (info["format"], info["format_version"])
        arrays = {name: file[name] for name in file.files if name != "info"}
    if found not in [(format, version) for version in versions]:
        raise ValueError(
            f"{path.name} has the format {found[0]} {found[1]} and {format} {versions[-1]} is "
            "needed; it must be made again."
        )
    return arrays, info


def by_number(name: str, by_run: Mapping[str, NDArray[Any]]) -> Arrays:
    """An array of each run under a name of its own, "places_0", whatever the runs' ids hold."""
    return {f"{name}_{number}": values for number, values in enumerate(by_run.values())}


def of_runs(name: str, arrays: Arrays, runs: Sequence[str]) -> Arrays:
    """What `by_number` was given, of runs in the same order. Raises KeyError for what lacks, and
    ValueError for a run that is named twice."""
    if len(set(runs)) < len(runs):
        raise ValueError("a run is named twice")
    return {str(run): arrays[f"{name}_{number}"] for number, run in enumerate(runs)}


def head(
    format: str, version: int, runs: Iterable[str], keys: Mapping[str, str], pair_key: str
) -> dict[str, Any]:
    """What a description says of its format, its runs and the key of each: see `read_keys`."""
    about = {"format": format, "format_version": version, "runs": list(runs)}
    return about | ({"pair_key": pair_key} if pair_key else {"keys": dict(keys)})


def read_keys(info: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """What names the contents of a file: a key for each run, or one of all of them (version 1).

    Raises KeyError for a run without a key.
    """
    if "pair_key" in info:
        return {}, str(info["pair_key"])
    return {str(run): str(info["keys"][run]) for run in info["runs"]}, ""


def read_geometry(info: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of the layers that a file is of, and the routed experts of each.

    Raises ValueError for none, for a layer named twice, or where the two do not fit.
    """
    numbers, routed = (tuple(map(int, info[name])) for name in ("numbers", "routed"))
    if not numbers or len(set(numbers)) < len(numbers) or len(routed) != len(numbers):
        raise ValueError("a number of experts for each layer is needed")
    if min(routed) < 0 or max(routed) < 1:
        raise ValueError("a file about experts needs some")
    return numbers, routed


def said(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a description says of how the file was made, without what belongs to its format."""
    of_format = {"format", "format_version", "runs", "key", "keys", "pair_key"}
    return {name: value for name, value in info.items() if name not in of_format}


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """A `with` block that reads `path`: whatever fails in it is a ValueError that says so."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or "it is not whole"
        raise ValueError(f"{path.name} cannot be read ({reason}).") from error
    except DAMAGE as error:
        raise ValueError(f"{path.name} is damaged; it must be made again.") from error


def check_shape(array: NDArray[Any], *shape: int | None) -> int:
    """Raises ValueError unless the numbers are finite and of this shape (None: any length).

    Returns the length of the first axis.
    """
    fits = array.ndim == len(shape) and all(
        wanted in (None, there) for wanted, there in zip(shape, array.shape, strict=True)
    )
    if not (fits and array.dtype.kind in "iuf" and np.isfinite(array).all()):
        raise ValueError(f"an array of shape {array.shape} and {array.dtype} does not fit")
    return len(array)
