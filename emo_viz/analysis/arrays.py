"""One .npz file of arrays with a JSON description inside; nothing in it is ever unpickled."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_arrays(path: Path, arrays: dict[str, NDArray[Any]], info: dict[str, Any]) -> None:
    """Write `arrays` and `info` (needs "format" and "format_version") to `path`, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, info=np.array(json.dumps(info)), **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_arrays(
    path: Path, format: str, version: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the description of a file that `save_arrays` wrote.

    Raises ValueError if there is no such file, if it is damaged, or of another format or version.
    """
    if not path.exists():
        raise ValueError(f"There is no file {path.name}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            info = json.loads(str(file["info"]))
            found = (info["format"], info["format_version"])
            arrays = {name: file[name] for name in file.files if name != "info"}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is damaged; it must be made again.") from error
    if found != (format, version):
        raise ValueError(
            f"{path.name} has the format {found[0]} {found[1]} and {format} {version} is needed; "
            "it must be made again."
        )
    return arrays, info
