"""The user's folder: the runs that were added, and all that was recorded and measured of them.

EMO_VIZ_HOME, or the platform's folder for a user's data. It holds

    runs/ID.json            one added run: where its checkpoint lies (never a copy)
    traces/ID/              what was recorded of it, or imported from another tool's file
    analysis/ID/            what was measured of the run alone: token clusters, maps, curves
    analysis/ID+ID/         what was measured of two runs together
    documents/              files of documents that were uploaded
    pairs/                  pairs of the user's own (`emo_viz.server.pairs`)

The bundled assets are only read. What is here is made by the Library page and by `python -m emo_viz
analyse`; deleting a run deletes its files here and nothing else.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from emo_viz.analysis.runs import safe_id
from emo_viz.server import looks
from model.files import check_writable, new_file, read_json, write_json

VARIABLE = "EMO_VIZ_HOME"
NAME = "emo-viz"
LONGEST_ID = 80
FORMAT = "emo-viz-run"
FORMAT_VERSION = 1
NONE = "none"  # in an address: no run, so no run is called so
BOTH = "+"  # between two ids in the name of a folder: no id has it
Kind = Literal["bundled", "yours", "imported"]  # where a run comes from


@dataclass(frozen=True)
class Added:
    """One run that was added.

    checkpoint: its folder, or its name on the Hugging Face hub; "" of an imported file. documents:
    the file that it was recorded over last, "" for the bundled ones.
    """

    id: str
    checkpoint: str = ""
    documents: str = ""

    @property
    def kind(self) -> Kind:
        return "yours" if self.checkpoint else "imported"


def folder() -> Path:
    """The user's folder, there or not. Raises ValueError where the system has no place for it."""
    if told := os.environ.get(VARIABLE):
        return Path(told)
    try:
        return _user_data() / NAME
    except RuntimeError as error:  # there is no home folder
        raise ValueError(
            f"There is no home folder to keep runs in; set {VARIABLE} to a folder."
        ) from error


def _user_data() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_DATA_HOME"
    told = os.environ.get(variable, "")
    return Path(told) if Path(told).is_absolute() else Path.home() / ".local" / "share"


def check() -> None:
    """Raises ValueError, one sentence with the way out, if nothing can be written here."""
    try:
        check_writable(folder() / "runs")
    except ValueError as error:
        raise ValueError(f"{str(error).removesuffix('.')} in {VARIABLE}.") from error


def trace_path(run: str) -> Path:
    """Folder of the trace of an added run."""
    return folder() / "traces" / run


def clusters_path(run: str) -> Path:
    """File of the token clusters of a run."""
    return folder() / "analysis" / run / f"clusters-{run}.npz"


def analysis_path(name: str, runs: Iterable[str]) -> Path:
    """Where a file of one run, or of two together, belongs."""
    return folder() / "analysis" / BOTH.join(runs) / name


def measured(name: str, runs: Iterable[str]) -> list[Path]:
    """The files of this name that are of these runs at least, those of no others first."""
    wanted, place = set(runs), folder() / "analysis"
    found = [(set(each.name.split(BOTH)), each / name) for each in _in(place)]
    fitting = [(of, path) for of, path in found if wanted <= of and path.is_file()]
    return [path for _, path in sorted(fitting, key=lambda each: (len(each[0]), each[1]))]


def runs() -> dict[str, Added | str]:
    """What was added, by id in its order; of a run that cannot be read, one sentence on why."""
    try:
        files = [path for path in _in(folder() / "runs") if path.suffix == ".json"]
    except ValueError:  # there is no such folder, so nothing is in it
        return {}
    return {path.stem: _read(path) for path in files}


def find(run: str) -> Added | None:
    """An added run by its id; None if there is none, or it cannot be read."""
    try:
        path = _file(run)
    except ValueError:
        return None
    found = _read(path) if path.is_file() else None
    return found if isinstance(found, Added) else None


def add(name: str, checkpoint: str, taken: Iterable[str], run: str = "") -> Added:
    """Keep a run under an id of its own: its name's, with a number if one of `taken` has that.

    checkpoint: see `Added`. run: an id that `free_id` has given before. Raises ValueError if it
    cannot be written.
    """
    check()
    added = Added(run or free_id(name, taken), checkpoint)
    _write(added)
    return added


def free_id(name: str, taken: Iterable[str] = ()) -> str:
    """A safe id like `name` that no other run has. Raises ValueError if there is no folder."""
    used = {NONE, *(each.lower() for each in (*taken, *runs()))}
    stem = safe_id(name.rstrip("/").rpartition("/")[2])[:LONGEST_ID]
    numbered = (stem if n == 1 else f"{stem}-{n}" for n in count(1))
    # What is left of a run that could not be deleted whole is no part of another.
    return next(each for each in numbered if each.lower() not in used and not files_of(each))


def keep_documents(run: Added, documents: str) -> Added:
    """Write down which documents a run is recorded over. Raises ValueError if it cannot be."""
    changed = replace(run, documents=documents)
    if changed != run:
        _write(changed)
    return changed


def given_path(typed: str) -> Path:
    """What was typed as a path on this machine. Raises ValueError for what cannot be one."""
    try:
        path = Path(typed.strip()).expanduser().absolute()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{typed!r:.80} is no path on this machine; check it.") from error
    return path


def upload(name: str, content: bytes, below: str = "documents") -> Path:
    """Keep an uploaded file, named by its content too, so that none replaces another.

    Raises ValueError if it cannot be written.
    """
    check()
    stem, dot, ending = Path(name).name.partition(".")
    digest = hashlib.sha256(content).hexdigest()[:12]
    path = folder() / below / f"{safe_id(stem)[:60]}-{digest}{dot}{ending}"
    if not path.is_file():
        with new_file(path) as temporary:
            temporary.write_bytes(content)
    return path


def files_of(run: str) -> list[Path]:
    """What lies here of a run, alone or with another; the checkpoint it names is not among it."""
    place = folder()
    traces = [place / "traces" / run, place / "traces" / f".{run[:100]}.partial"]
    analyses = [path for path in _in(place / "analysis") if run in path.name.split(BOTH)]
    return [path for path in (*traces, *analyses) if path.exists()]


def delete(run: str) -> None:
    """Delete a run that was added: it is gone at once, then what was made of it goes.

    Raises ValueError if there is none, or if it cannot be deleted.
    """
    looks.again()  # what is listed is deleted as it is listed, its name a safe id or not
    path = folder() / "runs" / f"{run}.json" if run in runs() else _file(run)
    if not path.is_file():
        raise ValueError(f"There is no added run {run}; it may have been deleted already.")
    try:
        path.unlink()
        for each in files_of(run):
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    except OSError as error:
        raise ValueError(
            f"{error.filename or path} cannot be deleted ({error.strerror}); delete it by hand."
        ) from error


def _file(run: str) -> Path:
    if run != safe_id(run):
        raise ValueError(f"{run!r:.60} is not the id of an added run.")
    return folder() / "runs" / f"{run}.json"


def _in(place: Path) -> list[Path]:
    """What is in a folder, by name; nothing where it cannot be read."""
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _read(path: Path) -> Added | str:
    try:
        return _added(path)
    except ValueError as error:
        return f"The run {path.stem} cannot be read ({error}); delete it here and add it again."


def _added(path: Path) -> Added:
    run, said = path.stem, _said(path)
    if said.get("format") != FORMAT or said.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path} is not of run format {FORMAT_VERSION}")
    checkpoint, documents = (said.get(name) for name in ("checkpoint", "documents"))
    if run != safe_id(run) or not isinstance(checkpoint, str) or not isinstance(documents, str):
        raise ValueError(f"{path} is damaged")
    for each in (checkpoint, documents):
        given_path(each)
    return Added(run, checkpoint, documents)


def _said(path: Path) -> dict[str, Any]:
    """Raises ValueError, in words that say what is wrong."""
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0]) from error


def _write(run: Added) -> None:
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    said = {"checkpoint": run.checkpoint, "documents": run.documents}
    write_json(_file(run.id), head | said)
    looks.again()
