"""The C sources beside this file as one library, compiled when first needed.

A C compiler (`cc`, or the command that CC holds) makes it for the processor at hand and keeps it in
the user's cache folder. Where nothing can be kept, it is made anew for this process; where it
cannot be had at all, `library()` is None and callers stay with torch.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from model.files import new_file

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
NATIVE = "-march=native"
FLAGS = ["-O3", NATIVE, "-fPIC", "-shared", "-pthread"]
SECONDS = 300  # The sources take five; a compiler that waits for something is given up.
TRY = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).emo_has_products(ctypes.c_long(0))"

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled library, or None (with one line in the log) where it cannot be had.

    Never raises: whatever goes wrong here costs speed alone.
    """
    try:
        compiler = _compiler()
        if compiler is None:
            log.info("No C compiler: layers run on torch's operations, about half as fast.")
            return None
        return _load(compiler)
    except Exception as error:
        log.warning("The C sources did not compile or load (%s); layers run on torch.", error)
        return None


@torch.compiler.assume_constant_result  # which would trace the search for it, cached or not
def available() -> bool:
    """Whether there is a library, here."""
    return library() is not None


def _compiler() -> list[str] | None:
    """The command that CC holds, a path or a command with arguments, or `cc`; None without one."""
    named = os.environ.get("CC", "").strip() or "cc"
    if found := shutil.which(named):  # a path may hold spaces
        return [found]
    command, *arguments = shlex.split(named)
    found = shutil.which(command)
    return [found, *arguments] if found else None


def _load(compiler: list[str]) -> ctypes.CDLL:
    """The library from the user's cache, or made and kept there, or made for this process alone.

    Raises OSError or RuntimeError where it cannot be made or loaded.
    """
    name = _name(compiler)
    folder = _cache_folder()
    if folder and (kept := _kept(folder, name)):
        return kept
    # A fresh folder that only this user can open: nobody else can put a library there.
    with tempfile.TemporaryDirectory(prefix="emo-viz-") as private:
        made = _compile(compiler, Path(private) / "made.so")
        if folder and (kept := _keep(made, folder / f"{name}-{_digest(made)}.so")):
            return kept
        _try(made)
        log.info("The compiled library cannot be kept: every process compiles it for itself.")
        return ctypes.CDLL(str(made))


def _name(compiler: list[str]) -> str:
    """Of the library for these sources, compiler and processor."""
    version = _run([*compiler, "--version"])[1]  # whatever it answers
    settings = "\n".join([*FLAGS, *compiler, version, _processor()])
    parts = [path.read_bytes() for path in SOURCES + HEADERS]
    key = b"\n".join([*parts, settings.encode("utf-8", "surrogateescape")])
    return f"emo-{hashlib.sha256(key).hexdigest()[:16]}"


def _cache_folder() -> Path | None:
    """The user's cache folder for this project; None unless it is there and theirs alone."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (home if home.is_absolute() else Path.home() / ".cache") / "emo-viz"
        if not folder.is_absolute():
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
        if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and _others_write(state):
            folder.chmod(0o700)  # made where a group may write what its members make
        return folder if _is_ours(folder) else None
    except (OSError, RuntimeError):  # RuntimeError: a user without a name and a home
        return None


def _is_ours(path: Path) -> bool:
    """Whether this user owns a file or folder, not a link, that nobody else can write."""
    state = path.lstat()
    is_link = stat.S_ISLNK(state.st_mode)
    return state.st_uid == os.getuid() and not is_link and not _others_write(state)


def _others_write(state: os.stat_result) -> bool:
    return bool(state.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _kept(folder: Path, name: str) -> ctypes.CDLL | None:
    """A library of this name that is ours and whole: its own name ends with its digest."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        with suppress(OSError):  # unreadable, or on a disk that nothing may be run from
            if _is_ours(path) and path.stem == f"{name}-{_digest(path)}":
                return ctypes.CDLL(str(path))
    return None


def _keep(made: Path, path: Path) -> ctypes.CDLL | None:
    """The library from its place in the cache; None where it cannot be kept or run there."""
    try:
        with new_file(path) as temporary:
            shutil.copyfile(made, temporary)
        path.chmod(0o700)
        _try(path)
        return ctypes.CDLL(str(path))
    except (OSError, ValueError, RuntimeError):
        with suppress(OSError):
            path.unlink()
        return None


def _try(path: Path) -> None:
    """Load a library in a process of its own, which a broken one can end. Raises RuntimeError."""
    failed, words = _run([sys.executable, "-I", "-S", "-c", TRY, str(path)])
    if failed:
        raise RuntimeError(_last_line(words) or f"loading it ended with status {failed}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _compile(compiler: list[str], path: Path) -> Path:
    """Make the library at `path`. Raises RuntimeError if the compiler fails."""
    # Some compilers know no native processor; any that they make code for is better than none.
    for flags in (FLAGS, [flag for flag in FLAGS if flag != NATIVE]):
        failed, words = _run([*compiler, *flags, "-o", str(path), *map(str, SOURCES), "-lm"])
        if not failed and path.is_file():
            return path
    raise RuntimeError(_last_line(words) or f"{compiler[0]} ended with status {failed}")


def _last_line(words: str) -> str:
    return next((line.strip()[:200] for line in reversed(words.splitlines()) if line.strip()), "")


def _run(command: list[str]) -> tuple[int, str]:
    """Exit status and words of a command. Raises RuntimeError if it does not end in time."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            words = process.communicate(timeout=SECONDS)[0]
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it starts others, which would go on
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"{command[0]} did not end within {SECONDS} s") from error
            raise
    return process.returncode, words


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared between machines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return "\n".join([platform.machine(), platform.processor(), *flags])


def call(name: str, *arguments: Tensor | int | None) -> None:
    """Call one function of the library; tensors go as pointers, integers as C longs, None as 0."""
    loaded = library()
    assert loaded is not None
    values = [
        ctypes.c_long(value)
        if isinstance(value, int)
        else ctypes.c_void_p(None if value is None else value.data_ptr())
        for value in arguments
    ]
    if getattr(loaded, name)(*values):
        raise MemoryError(f"{name}: not enough memory; fewer threads or tokens need less.")
