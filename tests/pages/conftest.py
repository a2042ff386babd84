"""What the tests of a page compare it with: the measured curves and both models."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.components.v2 import manifest_scanner

from emo_viz.analysis.curves import Curves, read_curves
from emo_viz.server import training, typical
from model.emo.modeling import EmoForCausalLM
from model.run.loading import load_model
from tests.pages.opened import open_everything

RUNS = ("emo-nano", "std-nano")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A page runs models: how long it takes says more of the machine than of the page."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session", autouse=True)
def packages_searched_once() -> Iterator[None]:
    """An AppTest looks through every installed package at every run, for what no run changes."""
    search = functools.cache(manifest_scanner.scan_component_manifests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", search)
        yield


@pytest.fixture(autouse=True)
def no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page sees what has been trained in this checkout."""
    monkeypatch.setattr(training, "RUNS", str(tmp_path / "no-runs"))


@pytest.fixture(scope="session")
def curves(tiny_assets: Path) -> Curves:
    return read_curves(tiny_assets / "analysis" / "curves.parquet")


@pytest.fixture(scope="session")
def models(tiny_assets: Path) -> dict[str, EmoForCausalLM]:
    return {name: load_model(tiny_assets / "checkpoints" / name) for name in RUNS}


@pytest.fixture
def everything_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every popover and dialog whose content is made once it is opened; of a dialog on the page."""
    open_everything(monkeypatch)


@pytest.fixture(autouse=True)
def _first_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages open on the first document that they offer, whose numbers tests work out beside them;
    which one it is otherwise is tested by itself."""
    monkeypatch.setattr(typical, "among", lambda ids, runs: ids[0])
