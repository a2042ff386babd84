"""The folder of an unfinished corpus: what is whole in it is not made again.

`.NAME.partial/` beside the corpus NAME holds `state.json`, which says of what the corpus is, and
parts of it, each written under a temporary name and renamed. A build that was killed goes on after
them; one of anything else begins anew.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from model.data.documents import CorpusError
from model.files import locked, read_json, remove_left_overs, write_json

FORMAT = "emo-viz-partial-corpus"
STATE, LOCK = "state.json", "lock"


@contextmanager
def work_folder(out: Path, of: Mapping[str, Any], tell: Callable[[str], None]) -> Iterator[Path]:
    """A `with` block that fills the folder it is given; gone afterwards, unless it was cut short.

    of: JSON of all that decides the corpus. Input that is no good (CorpusError) leaves nothing;
    what cannot be had (Unreachable), a kill, Ctrl-C or a full disk leaves what is whole.
    Raises ValueError if another process builds there, or the folder holds something else.
    """
    folder = out.parent / f".{out.name[:100]}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    lock = locked(
        folder / LOCK,
        f"Another process is building the same corpus ({folder}); wait for it, or choose another "
        "--out.",
    )
    try:
        remove_left_overs(out)
        _take_up(folder, dict(of), tell)
        try:
            yield folder
        except CorpusError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except sqlite3.Error as error:  # a full disk, most likely
            raise ValueError(
                f"{folder} cannot be written ({error}); make room and run the same command again."
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _take_up(folder: Path, of: dict[str, Any], tell: Callable[[str], None]) -> None:
    """Raises ValueError if the folder holds what no build wrote."""
    others = [path for path in folder.iterdir() if path.name != LOCK and path.suffix != ".tmp"]
    state: dict[str, Any] = {}
    with suppress(ValueError):
        state = read_json(folder / STATE)
    if others and state.get("format") != FORMAT:
        raise ValueError(
            f"{folder} is not an unfinished corpus; move it away, or choose another --out."
        )
    if others and state.get("of") == of:
        tell(f"An unfinished build is in {folder}; it goes on from there.")
        return
    if others:
        tell("The unfinished build is of other documents or options; it begins anew.")
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(folder / STATE, {"format": FORMAT, "of": of})
