"""The compiled library for each vector width, made once for all tests and processes that ask."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import native
from model.native import compiled, products

ON_X86 = platform.machine() in ("x86_64", "AMD64")
PROCESSORS = ["native", *(["haswell", "x86-64"] if ON_X86 else [])]


@pytest.fixture(scope="session")
def compiled_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that all workers of a run share: compiling takes seconds a processor."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    return folder / "compiled"


@pytest.fixture
def forgetful() -> Iterator[None]:
    """No library is loaded yet, and none of this test's stays."""
    for cache in (compiled.library, products.has_products, native.half_gains):
        cache.cache_clear()
    yield
    for cache in (compiled.library, products.has_products, native.half_gains):
        cache.cache_clear()


@pytest.fixture
def fresh(forgetful: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and no library loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(params=PROCESSORS)
def processor(
    request: pytest.FixtureRequest,
    forgetful: None,
    monkeypatch: pytest.MonkeyPatch,
    compiled_once: Path,
) -> str:
    """Compiled code is that of this processor: as it is, or another with shorter vectors."""
    if request.param != "native":  # that one lies where the app keeps it
        compiled_once.mkdir(exist_ok=True)
        monkeypatch.setenv("XDG_CACHE_HOME", str(compiled_once))
        named = f"-march={request.param}"
        flags = [named if flag == compiled.NATIVE else flag for flag in compiled.FLAGS]
        monkeypatch.setattr(compiled, "FLAGS", flags)
    return str(request.param)
