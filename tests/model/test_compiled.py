"""Where the compiled library comes from: every compiler, cache and home ends with it or with torch.

The sources are replaced by one of a line, so that compiling takes no time.
"""

import logging
import os
import pwd
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from model.native import compiled
from tests.model.helpers import needs_compiler

pytestmark = needs_compiler
SOURCE = "int emo_has_products(long half) { return half ? 0 : 42; }\n"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The cache folder, not yet made, with one short source to compile and nothing loaded."""
    source = tmp_path / "short.c"
    source.write_text(SOURCE)
    monkeypatch.setattr(compiled, "SOURCES", [source])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CC", raising=False)
    compiled.library.cache_clear()
    yield tmp_path / "home" / "emo-viz"
    compiled.library.cache_clear()


def load():
    """What a process of its own would get: nothing remembered."""
    compiled.library.cache_clear()
    loaded = compiled.library()
    assert loaded is None or loaded.emo_has_products(0) == 42
    return loaded


def kept(cache):
    return sorted(cache.iterdir()) if cache.is_dir() else []


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def without_home(cache, monkeypatch):
    """A user without HOME and without a line in the list of users, as docker run --user makes."""

    def nobody(_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    return cache


def test_the_library_is_kept_for_this_user_alone(cache):
    assert load() is not None
    (library,) = kept(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == stat.S_IMODE(library.stat().st_mode) == 0o700


def test_the_library_is_compiled_once(cache):
    load()
    (made,) = kept(cache)
    stamp = made.stat().st_mtime_ns
    assert load() is not None and kept(cache) == [made]
    assert made.stat().st_mtime_ns == stamp


def test_a_user_without_a_home_has_it_for_one_process(without_home, caplog):
    with caplog.at_level(logging.INFO):
        assert load() is not None
    assert [record.getMessage() for record in caplog.records] == [
        "The compiled library cannot be kept: every process compiles it for itself."
    ]


def test_a_relative_cache_folder_is_not_made_where_one_stands(cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, "here")
    assert load() is not None
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("command", ["", "  ", "cc -m64 -O1", "cc '-DNAME=a b'"])
def test_cc_is_a_command_with_arguments_or_nothing(cache, monkeypatch, command):
    monkeypatch.setenv("CC", command)
    assert load() is not None


def test_a_compiler_in_a_folder_with_spaces(cache, monkeypatch, tmp_path):
    folder = tmp_path / "two words"
    folder.mkdir()
    monkeypatch.setenv("CC", str(script(folder / "cc", 'exec cc "$@"')))
    assert load() is not None


@pytest.mark.parametrize(
    "body",
    [
        "exit 1",
        "kill -9 $$",
        "echo 'no such option' >&2; exit 3",
        "exit 0",
        '[ "$1" = --version ] || { while [ "$1" != -o ]; do shift; done; echo junk > "$2"; }',
        "echo 'int other;' | cc -x c -shared -fPIC -o made.so - && "
        'while [ $# -gt 1 ]; do [ "$1" = -o ] && cp made.so "$2"; shift; done',
    ],
    ids=["fails", "is killed", "complains", "writes nothing", "writes junk", "another library"],
)
def test_a_compiler_of_no_use_is_one_line(cache, monkeypatch, caplog, tmp_path, body):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", str(script(tmp_path / "broken-cc", body)))
    assert load() is None and compiled.library() is None
    (record,) = caplog.records
    assert "layers run on torch" in record.getMessage() and "\n" not in record.getMessage()
    assert kept(cache) == []


def test_an_unbalanced_quote_in_cc_is_one_line(cache, monkeypatch, caplog):
    monkeypatch.setenv("CC", "cc '-O1")
    assert load() is None
    assert len(caplog.records) == 1


def test_a_compiler_that_waits_for_something_is_ended_with_what_it_started(
    cache, monkeypatch, caplog, tmp_path
):
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(compiled, "SECONDS", 1)
    waits = script(tmp_path / "slow-cc", f"exec 3>{alive}; sleep 600 & wait")
    monkeypatch.setenv("CC", str(waits))
    assert load() is None
    assert "did not end within 1 s" in caplog.text
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # the end: no process holds the other side any more
    os.close(reader)


def test_a_compiler_without_a_native_processor_compiles_for_any(cache, monkeypatch, tmp_path):
    body = 'case "$*" in *-march=native*) exit 1;; esac; exec cc "$@"'
    monkeypatch.setenv("CC", str(script(tmp_path / "plain-cc", body)))
    assert load() is not None


def test_a_damaged_library_in_the_cache_is_made_anew(cache):
    load()
    (library,) = kept(cache)
    whole = library.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1] + b"x", b"junk"):
        library.unlink()
        library.write_bytes(damaged)
        assert load() is not None
        assert library.read_bytes() == whole


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
def test_a_library_that_others_can_write_is_not_loaded(cache, monkeypatch, tmp_path, mode):
    load()
    (library,) = kept(cache)
    loaded = []
    monkeypatch.setattr(compiled.ctypes, "CDLL", recording(compiled.ctypes.CDLL, loaded))
    library.chmod(mode)
    load()
    assert stat.S_IMODE(library.stat().st_mode) == 0o700
    assert loaded == [str(library)]
    load()
    assert loaded == [str(library)] * 2


def recording(load_library, loaded):
    def record(path):
        loaded.append(path)
        return load_library(path)

    return record


def test_a_cache_folder_that_a_group_may_write_is_closed(cache):
    cache.mkdir(parents=True)
    cache.chmod(0o775)
    assert load() is not None
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700 and len(kept(cache)) == 1


def test_another_users_cache_folder_is_not_used(cache, monkeypatch):
    load()
    before = kept(cache)
    monkeypatch.setattr(compiled.os, "getuid", lambda: 12345)
    loaded = []
    monkeypatch.setattr(compiled.ctypes, "CDLL", recording(compiled.ctypes.CDLL, loaded))
    assert load() is not None
    assert kept(cache) == before and not loaded[0].startswith(str(cache))


def test_a_linked_cache_folder_is_not_used(cache, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    assert load() is not None
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("place", ["a file", "a file/below"])
def test_a_cache_that_cannot_be_made(cache, monkeypatch, tmp_path, place):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    assert load() is not None


def test_a_cache_that_nothing_may_be_run_from(cache, monkeypatch):
    """As on a disk mounted noexec: it loads from the temporary folder, and nothing is left."""
    load_library = compiled.ctypes.CDLL

    def refuse(path):
        if path.startswith(str(cache)):
            raise OSError("failed to map segment from shared object")
        return load_library(path)

    def try_refused(path):
        if path.is_relative_to(cache):
            raise RuntimeError("failed to map segment from shared object")

    monkeypatch.setattr(compiled.ctypes, "CDLL", refuse)
    monkeypatch.setattr(compiled, "_try", try_refused)
    assert load() is not None
    assert kept(cache) == []


def test_no_temporary_folder_is_one_line(cache, monkeypatch, caplog):
    def refuse(**_):
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(compiled.tempfile, "TemporaryDirectory", refuse)
    assert load() is None
    assert len(caplog.records) == 1


def test_many_at_once_all_have_it(cache):
    name = compiled._name([shutil.which("cc")])
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: compiled._load([shutil.which("cc")]), range(8)))
    assert all(library.emo_has_products(0) == 42 for library in loaded)
    assert kept(cache) and all(path.name.startswith(name) for path in kept(cache))


def test_the_command_says_why_layers_run_on_torch(cache, tmp_path):
    environment = {**os.environ, "CC": str(tmp_path / "none")}
    command = [sys.executable, "-m", "model.native"]
    done = compiled.subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "No C compiler" in done.stderr
