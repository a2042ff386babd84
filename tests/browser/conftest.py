"""Fixtures of the browser tests; every test in this folder is marked e2e."""

from collections.abc import Iterator
from pathlib import Path

import harness
import npm
import pytest
from playwright.sync_api import Browser, Page


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder, so that `-m "not e2e"` runs without a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(1800))  # a server and a browser on a busy machine


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for the whole run."""
    with harness.launch() as browser:
        yield browser


@pytest.fixture(scope="session")
def app_server(tiny_assets: Path) -> Iterator[harness.Server]:
    """The app on the tiny assets, shared by the tests; `harness.serve` gives one of one's own."""
    with harness.serve(tiny_assets) as server:
        yield server


@pytest.fixture(scope="session")
def bundled() -> Iterator[harness.Server]:
    """The app on what it comes with: trained runs, and all experts and points that visitors see."""
    with harness.serve(harness.ROOT / "assets") as server:
        yield server


@pytest.fixture(scope="session")
def axe_core() -> None:
    """axe-core is there, or the test is left out."""
    try:
        npm.installed(npm.AXE)
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def fonts() -> dict[str, bytes]:
    """A font of each script in `npm.FONTS`, or the test is left out."""
    try:
        return {script: npm.installed(file).read_bytes() for script, file in npm.FONTS.items()}
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def browser_page(browser: Browser) -> Iterator[Page]:
    """A fresh page of 1440 x 900; the test fails if the browser or the app met an error."""
    with harness.new_page(browser) as page:
        yield page
