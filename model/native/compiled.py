"""The C sources beside this file as one library, compiled when first needed.

A C compiler (`cc`, or the one that CC names) makes it for the processor at hand and keeps it in the
user's cache folder; without a compiler `library()` is None and callers stay with torch.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from torch import Tensor

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
FLAGS = ["-O3", "-march=native", "-fPIC", "-shared"]

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled library, or None (with one line in the log) where it cannot be had."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        log.info("No C compiler: layers run on torch's operations, about half as fast.")
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("The C sources did not compile or load (%s); layers run on torch.", error)
        return None


def _compiled(compiler: str) -> Path:
    """Path of the library for these sources, compiler and processor; made if it is not there."""
    text = [path.read_text() for path in SOURCES + HEADERS]
    key = "\n".join([*text, *FLAGS, _version(compiler), _processor()])
    name = f"emo-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    path = _cache_folder() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / name
            command = [compiler, *FLAGS, "-o", str(made), *map(str, SOURCES), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            made.replace(path)
    return path


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "emo-viz"


def _version(compiler: str) -> str:
    command = [compiler, "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared between machines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
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
        raise MemoryError(f"{name}: no memory left for a block of rows.")
