"""Files: names that stay inside their folder, writes that are whole or not there at all.

What this project writes goes through `new_file` or `new_folder`: to a temporary name beside the
goal, renamed when it is whole. A reader never sees half a file, a failure loses nothing and leaves
nothing, and a link at the goal is replaced, never written through.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# A tokenizer has one of these.
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")


def _umask() -> int:
    """What the process takes from the mode of new files; to ask for it is to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Once: of two threads that asked at one time, one would read the other's 0 and leave it.
UMASK = _umask()


def inside(folder: Path, name: object) -> Path:
    """The file called `name` in `folder`, for a name that came out of a file.

    Raises ValueError unless the name, links resolved, stays inside the folder. A folder of the
    Hugging Face cache may link to the blobs of its own repository.
    """
    if isinstance(name, str) and name and _stays_inside(folder, folder / name):
        return folder / name
    raise ValueError(
        f"{folder} names a file outside of itself ({name!r:.100}); get it from a source you trust."
    )


def _stays_inside(folder: Path, path: Path) -> bool:
    try:
        target, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, half a character, a zero
        return False
    if target == home or not _is_below(path.absolute(), folder.absolute()):
        return False
    return any(target.is_relative_to(place) for place in (home, *_hub_blobs(folder)))


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(Path(os.path.normpath(folder)))


def _hub_blobs(folder: Path) -> list[Path]:
    """Where a snapshot in the Hugging Face cache keeps its files: repo/snapshots/revision/."""
    snapshots = folder.resolve().parent
    return [snapshots.parent / "blobs"] if snapshots.name == "snapshots" else []


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A `with` block that fills the temporary file it is given; then that is `path`.

    Raises ValueError if `path` cannot be written. If the block fails, `path` is as it was.
    """
    temporary = _temporary(path, tempfile.mkstemp)
    try:
        with _blaming(path, temporary):
            yield temporary
        with _blaming(path, path):
            _open_as_surroundings(temporary, 0o666)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A `with` block that fills the temporary folder it is given; then that is `path`.

    What was at `path` is removed when the new folder is whole: callers ask first whether it may be.
    Raises ValueError if `path` cannot be written. If the block fails, `path` is as it was.
    """
    temporary = _temporary(path, tempfile.mkdtemp)
    try:
        with _blaming(path, temporary):
            yield temporary
        with _blaming(path, path):
            _open_as_surroundings(temporary, 0o777)
            # Those that their library writes as tempfile does.
            for file in temporary.rglob("*.safetensors"):
                _open_as_surroundings(file, 0o666)
            _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def contents(folder: Path) -> list[Path]:
    """What lies in a folder, but what a kill in the middle of writing left: nobody's file, in
    nobody's way. [] where there is no folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in found if not _is_left_over(path)]


def _is_left_over(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_left_overs(path: Path) -> None:
    """Remove what a kill left of the folder `path` before it was whole; for who alone writes it."""
    made = re.compile(re.escape(f".{path.name[:100]}.") + r"[a-z0-9_]{8}\.tmp")
    for folder in path.parent.glob(".*.tmp"):
        names = os.listdir(folder) if made.fullmatch(folder.name) and folder.is_dir() else []
        if names and names != ["old"]:  # empty: another's trial; "old": the folder before this one
            shutil.rmtree(folder)


def check_writable(path: Path) -> None:
    """Try `path` before long work: raises ValueError if no file or folder can be made there.

    Makes no folder on the way: of two processes that try one path, neither takes the other's away.
    """
    nearest = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    _temporary(path, tempfile.mkdtemp, nearest).rmdir()


def check_new_file(path: Path) -> None:
    """Try `path` before long work: raises ValueError if no file can be written there."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file.")
    check_writable(path)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, all or nothing. Raises ValueError if it cannot be written."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write a JSON file, all or nothing. Raises ValueError if it cannot be written."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark.

    Raises ValueError if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text; convert it to UTF-8, or copy it again."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises ValueError if it does not."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number may have too many digits for Python
        raise ValueError(f"{path} is not valid JSON; copy it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; copy it again.")
    return content


def weight_files(checkpoint: Path) -> list[Path]:
    """The safetensors files that hold a checkpoint's weights, as transformers would read them.

    Raises ValueError if there are none, or its index is damaged or points outside the folder.
    """
    if not (checkpoint / SINGLE).is_file() and (checkpoint / INDEX).is_file():
        files = [inside(checkpoint, name) for name in sorted(set(_weight_map(checkpoint).values()))]
    else:
        files = [inside(checkpoint, SINGLE)]
    for file in files:
        if not os.path.isfile(file):  # unlike Path.is_file, False for a name that is too long
            name = file.name if file.name.isprintable() else repr(file.name)
            raise ValueError(
                f"{checkpoint} has no weights in {name:.100}; copy the checkpoint again (only "
                ".safetensors files are read)."
            )
    return files


def no_checkpoint(folder: Path) -> ValueError:
    """The error of a folder without a config.json; a training run keeps its model in export."""
    export = folder / "export"
    trained = (export / "config.json").is_file()
    mend = f"this run's model is {export}" if trained else "check the path"
    return ValueError(f"There is no checkpoint at {folder} (no config.json); {mend}.")


def check_tokenizer(checkpoint: Path) -> None:
    """Raises ValueError if a checkpoint folder has no tokenizer, by the names of its files."""
    if not any(file for pattern in VOCABULARIES for file in checkpoint.glob(pattern)):
        raise ValueError(
            f"There is no tokenizer in {checkpoint}; copy the model's tokenizer.json and "
            "tokenizer_config.json there."
        )


def num_parameters(checkpoint: Path) -> int:
    """How many numbers a checkpoint's weights hold, from the headers of its files alone.

    Raises ValueError for weights that are missing, damaged or cut short.
    """
    return sum(map(_numbers_in, weight_files(checkpoint)))


def _numbers_in(file: Path) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as weights:
            names = list(weights.keys())
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or cut short; copy the checkpoint again.") from error


def _weight_map(checkpoint: Path) -> dict[str, str]:
    weight_map = read_json(checkpoint / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{checkpoint / INDEX} lists no weights; copy the checkpoint again.")
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{checkpoint / INDEX} lists weights without a file; copy it again.")
    return weight_map


def weights_digest(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weights: its safetensors files in the order of their names.

    Raises ValueError as `weight_files` does.
    """
    return _digest(tuple(map(file_state, weight_files(checkpoint))))


class FileState(NamedTuple):
    """What tells a file from another that takes its place: no two have the same place on the disk
    and time of change, which nobody can set, even where a copy brings its own time along."""

    path: Path
    size: int
    modified: int
    changed: int
    inode: int


def file_state(path: Path) -> FileState:
    """The state of a file, without reading it. Raises OSError."""
    state = path.stat()
    real = _real(path.absolute(), state.st_dev, state.st_ino, state.st_ctime_ns)
    return FileState(real, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


@lru_cache(maxsize=4096)
def _real(path: Path, device: int, inode: int, changed: int) -> Path:
    """Where a file lies, links followed; as long as it is the same file it lies there."""
    return path.resolve()


@lru_cache(maxsize=512)
def file_digest(state: FileState) -> str:
    """SHA-256 of a file. Its state is the key: a file that is replaced is read again.

    Raises OSError.
    """
    with state.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _digest(files: tuple[FileState, ...]) -> str:
    """The files' states are the key: a file that is replaced is read again."""
    digest = hashlib.sha256()
    for state in files:
        with state.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _temporary(path: Path, make: Any, folder: Path | None = None) -> Path:
    """A fresh hidden file or folder for `path`, beside it, with the folders above it."""
    folder = folder or path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = make(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=folder)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    if isinstance(made, tuple):  # mkstemp opens what it makes
        os.close(made[0])
        made = made[1]
    return Path(made)


@contextmanager
def _blaming(path: Path, written: Path) -> Iterator[None]:
    """Say of `path` what failed in writing to `written`; other files' faults stay their own."""
    try:
        yield
    except Exception as error:
        own = isinstance(error, OSError) and str(error.filename or "").startswith(str(written))
        if own or _number(error) in OUT_OF_ROOM:
            raise _unwritable(path, error) from error
        raise


def _number(error: Exception) -> int | None:
    """The system's number of an error; safetensors has it in the text of an error of its own."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _unwritable(path: Path, error: Exception) -> ValueError:
    reason = getattr(error, "strerror", None) or str(error)
    return ValueError(f"{path} cannot be written ({reason}); make room or name another place.")


def _open_as_surroundings(path: Path, mode: int) -> None:
    """tempfile makes what only its owner can read; what we write is as open as any other file."""
    path.chmod(mode & ~UMASK)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what was at `path` is removed only after that has worked."""
    if not path.exists() and not path.is_symlink():
        new.rename(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent))
    path.rename(aside / "old")
    try:
        new.rename(path)
    except BaseException:
        (aside / "old").rename(path)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def locked(file: Path, taken: str) -> int:
    """A handle of a file that no other process holds; the system lets go of it with ours.

    On a system without such locks it holds nothing. Raises ValueError(taken) if another has it.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return handle
    except OSError as error:
        os.close(handle)
        raise ValueError(taken) from error
    return handle
