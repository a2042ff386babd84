"""Where a damaged input is tried: what may come of it, and that nothing else was touched."""

import hashlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import hypothesis.strategies as st
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, Verbosity, settings

from tests.fuzz.mutations import damaged_file

CPU_SECONDS = 60
MOST_MEMORY = 8 << 30
# Words of Python or of a parser, which say nothing to whoever has the file.
INNER_WORDS = re.compile(
    r"Traceback|NoneType|\b[A-Z]\w+Error\b|'\w+' object|unexpected keyword|invalid literal|"
    r"object is not|not subscriptable|has no attribute|positional argument|unhashable"
)


def fuzz(examples: int) -> settings:
    """The same examples on every run, however slow the machine; failures are small as they are."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        verbosity=Verbosity.normal,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


class Playground:
    """A folder with an input to damage (`given`), a place for outputs and things not to touch."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.given, self.out, self.cwd = root / "given", root / "out", root / "here"
        self.output = self.said = ""
        for folder in (self.given, self.out, self.cwd, root / "outside"):
            folder.mkdir()
        (root / "outside" / "secret.json").write_text('{"experts": [[1]]}')
        (root / "outside" / "model.safetensors").write_bytes(b"secret")

    def copy(self, source: Path) -> Path:
        """A file or folder to work on, in `given` under its own name."""
        target = self.given / source.name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        return target

    def damage(self, data: st.DataObject, path: Path, label: str = "damage") -> None:
        """Put drawn damage in the place of the file, or something that is no file."""
        kinds = ["file"] * 12 + ["missing", "folder", "link", "loop", "dangling"]
        kind = data.draw(st.sampled_from(kinds), label=f"{label} of {path.name}")
        if kind == "file":
            path.write_bytes(data.draw(damaged_file(path), label=path.name))
            return
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(self.root / "outside" / "secret.json")
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "dangling":
            path.symlink_to(self.root / "outside" / "not-there")

    def snapshot(self) -> dict[str, str]:
        """Name and digest (or target) of everything but the outputs."""
        found = sorted(p for p in self.root.rglob("*") if not p.is_relative_to(self.out))
        return {str(path.relative_to(self.root)): _digest(path) for path in found}

    def run(self, command: click.Command, *arguments: object, leaves: bool = False) -> int:
        """Run a command on what is here: it ends with 0, or 2 and one sentence.

        Whatever it did, all but the outputs is as it was; after a failure there are no outputs
        either, unless the command `leaves` what it had finished. `output` is all that it printed,
        `said` the sentence.
        """
        before = self.snapshot()
        with _limits(), _inside(self.cwd):
            result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError("a traceback") from result.exception
        self.output = result.output
        self.said = re.split(r"(?m)^Error: ", result.stderr)[-1].strip()
        assert result.exit_code in (0, 2), result.output
        assert self.snapshot() == before
        if result.exit_code == 2:
            check_sentence(self.said)
            assert leaves or list(self.out.iterdir()) == []
        return result.exit_code

    def read(self, reader: Callable[[], Any]) -> Any:
        """Call a reader: it returns, or raises ValueError with one sentence, and writes nothing."""
        before = self.snapshot()
        try:
            with _limits(), _inside(self.cwd):
                return reader()
        except ValueError as error:
            check_sentence(str(error))
            return None
        finally:
            assert self.snapshot() == before
            assert list(self.out.iterdir()) == []


@contextmanager
def playground() -> Iterator[Playground]:
    """A fresh one, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        yield Playground(Path(folder))


def check_sentence(text: str) -> None:
    """It is a line that a person can read."""
    assert text.strip() and "\n" not in text.strip(), f"not one sentence: {text!r}"
    assert len(text) < 1000, f"too long: {text!r}"
    assert not INNER_WORDS.search(text), f"a parser's words: {text!r}"


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"


@contextmanager
def _limits() -> Iterator[None]:
    """Ends what does not end, by CPU time and not by the clock, and what takes all memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    if sys.platform == "linux":  # elsewhere this limit means little
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _stop(*_: object) -> None:
    raise AssertionError(f"it ran for {CPU_SECONDS} s of CPU time")


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
