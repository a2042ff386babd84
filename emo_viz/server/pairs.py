"""Pairs of the user's own: folders that `python -m emo_viz analyse` made, each laid out as assets/.

The user's folder (`home`) lists them in `pairs/NAME.json`, which names the folder: `pairs/NAME`
beside it, unless --out named another. It is read where it lies, and only read.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emo_viz.analysis.runs import safe_id
from emo_viz.runs.sources import Sources, read_sources
from emo_viz.server import home, imports, looks
from model.files import check_writable, read_json, write_json

PLACE = "pairs"
FORMAT, FORMAT_VERSION = "emo-viz-listed", 1


@dataclass(frozen=True)
class Pair:
    """One pair, or one run alone. name: what it is listed as; "" of the assets folder itself."""

    name: str
    folder: Path
    sources: Sources

    @property
    def ids(self) -> tuple[str, ...]:
        """Of its runs that are there, EMO first."""
        parts = ("checkpoints", "traces")
        return tuple(
            run
            for run in self.sources.ids
            if any((self.folder / part / run).exists() for part in parts)
        )

    @property
    def command(self) -> str:
        """What goes on making it, or makes anew what has changed."""
        return self.sources.command(self.folder)


@looks.once
def at(folder: Path) -> Pair | None:
    """The pair of a folder, listed or not; None where nothing says that it is one."""
    try:
        return Pair("", folder, read_sources(folder))
    except (ValueError, OSError):
        return None


def listed() -> dict[str, Pair | str]:
    """The pairs by name, in its order; of one that cannot be read, one sentence on why."""
    return dict(_listed())


@looks.once
def _listed() -> tuple[tuple[str, Pair | str], ...]:
    try:
        files = sorted((home.folder() / PLACE).glob("*.json"))
    except (ValueError, OSError):  # there is no such folder, so nothing is in it
        return ()
    return tuple((file.stem, _read(file)) for file in files)


def _read(file: Path) -> Pair | str:
    try:
        said = read_json(file)
        if said.get("format") != FORMAT or said.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"{file} is not of format {FORMAT_VERSION}")
        folder = home.given_path(str(said["folder"]))
        return Pair(file.stem, folder, read_sources(folder))
    except (ValueError, KeyError, OSError) as error:
        why = str(error).partition(";")[0].removesuffix(".")
        return f"The pair {file.stem} cannot be read ({why}); make it again, or delete it here."


@looks.once
def of(run: str) -> Pair | None:
    """The listed pair that a run lies in."""
    found = (pair for pair in listed().values() if isinstance(pair, Pair))
    return next((pair for pair in found if run in pair.ids), None)


def lacking(pair: Pair) -> list[str]:
    """What of all that can be made of a pair is not there, in words."""
    imports.alone("emo_viz.runs.analyse")  # SciPy comes with it
    from emo_viz.runs import analyse

    return analyse.lacking(pair.sources, pair.folder)


def usual_folder(name: str) -> Path:
    """Where a pair of this name lies unless told. Raises ValueError where there is no place."""
    return home.folder() / PLACE / safe_id(name)


def check_free(name: str, folder: Path, ids: Sequence[str], taken: Sequence[str]) -> None:
    """Raises ValueError where the name, or a run's, is that of another one, of which something is
    there. taken: ids of the runs that do not lie in this folder."""
    other = listed().get(name)
    if isinstance(other, Pair) and other.ids and other.folder.resolve() != folder.resolve():
        raise ValueError(
            f"A pair called {name} is in the Library already, at {other.folder}; choose another "
            "--name, or delete it there."
        )
    if double := [run for run in ids if run in taken]:
        raise ValueError(
            f"A run called {double[0]} is in the Library already; choose another --name."
        )


def keep(name: str, folder: Path) -> None:
    """List a pair. Raises ValueError where the user's folder cannot be written."""
    check_writable(home.folder() / PLACE)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    write_json(_file(name), head | {"folder": str(folder.absolute())})
    looks.again()


def is_inside(pair: Pair) -> bool:
    """Whether its files are the user's folder's, so that they go with it."""
    return pair.folder.resolve().parent == (home.folder() / PLACE).resolve()


def delete(name: str) -> None:
    """Take a pair out of the list; its files, and what was measured of it beside other runs, go
    too where it lies in the user's folder.

    Raises ValueError if there is none, or if it cannot be deleted.
    """
    looks.again()
    pair = listed().get(name)
    if pair is None:
        raise ValueError(f"There is no pair {name}; it may have been deleted already.")
    file = home.folder() / PLACE / f"{name}.json"  # as it is listed, safe id or not
    try:
        gone = _files(pair) if isinstance(pair, Pair) and is_inside(pair) else []
        file.unlink()
        for folder in gone:
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)
    except OSError as error:
        raise ValueError(
            f"{error.filename or file} cannot be deleted ({error.strerror}); delete it by hand."
        ) from error
    finally:
        looks.again()


def _files(pair: Pair) -> list[Path]:
    """Its folder, and what was measured of its runs beside others; what is of an added run of the
    same id is not its own."""
    own = [run for run in pair.sources.ids if home.find(run) is None]
    return [pair.folder, *(path for run in own for path in home.files_of(run))]


def _file(name: str) -> Path:
    if name != safe_id(name):
        raise ValueError(f"{name!r:.80} is no name of a pair.")
    return home.folder() / PLACE / f"{name}.json"
