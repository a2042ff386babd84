"""Start the app, open it in Chromium, wait for what Streamlit does: for tests and docs/shots.py.

Nothing here sleeps. A server is ready when its health endpoint says so; a page is ready when
Streamlit reports that its script has finished and nothing stale is left on it.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import chromium
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
    WebSocket,
    expect,
    sync_playwright,
)
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

ROOT = Path(__file__).parents[2]
# Only a fault takes so long: how busy the machine is decides nothing.
START_SECONDS = 300
WAIT_MS = 240_000
NARROW = 900  # pixels; frame.js folds the side bar of a window of this width
expect.set_options(timeout=WAIT_MS)
LOCAL = "http://127.0.0.1:"
PROBES = ("/_stcore/health", "/_stcore/host-config")

SETTLED = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  return app !== null
    && app.getAttribute("data-test-connection-state") === "CONNECTED"
    && app.getAttribute("data-test-script-state") === "notRunning"
    && document.querySelector('[data-stale="true"], [data-testid="stSkeleton"]') === null;
}"""
TWO_FRAMES = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => done())))"""
# What a screen reader tells once more: how often an element's text is written from now on.
COUNT_WRITTEN = """(element) => {
  window.written = 0;
  new MutationObserver(() => (window.written += 1)).observe(element, { childList: true });
}"""
FOLDED = """() => {
  const bar = document.querySelector('[data-testid="stSidebar"]');
  const moving = document.getAnimations().some((each) => each instanceof CSSTransition);
  return window.emoVizFolded && !moving && (bar?.getBoundingClientRect().right ?? 0) <= 1;
}"""
IS_DARK = """getComputedStyle(document.querySelector('[data-testid="stApp"]'))
  .backgroundColor.match(/\\d+/g).slice(0, 3).every((channel) => channel < 128)"""
CHARTS_DRAWN = """() => {
  const charts = [...document.querySelectorAll('[data-testid="stPlotlyChart"]')];
  return charts.every((chart) => chart.querySelector(".main-svg") !== null);
}"""


# A new tab is a new visitor, who has nothing in the browser's store.
NOTHING_KEPT = """if (origin !== "null" && !sessionStorage.getItem("visitor")) {
  localStorage.clear();
  sessionStorage.setItem("visitor", "known");
}"""
# Not every browser tells its list of places.
NO_PLACES = "Object.defineProperty(window, 'navigation', { value: undefined });"

_sockets: WeakKeyDictionary[Page, WebSocket] = WeakKeyDictionary()
_rested: WeakKeyDictionary[Browser, BrowserContext] = WeakKeyDictionary()


@dataclass(frozen=True)
class Server:
    """A running app: its address, the file that it logs to, and its process."""

    url: str
    log: Path
    pid: int


def addresses() -> list[str]:
    """The path of every page as Streamlit derives it from the files: "" is the home page."""
    files = sorted((ROOT / "pages").glob("*.py"))
    return ["", *(file.stem.split("_", 1)[1] for file in files)]


@contextmanager
def serve(assets: Path | None, home: Path | None = None) -> Iterator[Server]:
    """Run the app on a free port with these assets (None: the bundled ones) and stop it after.

    Raises RuntimeError with the server's log if it does not come up.
    """
    environment = dict(os.environ)
    if assets is not None:
        environment["EMO_VIZ_ASSETS"] = str(assets)
    # What the user of this machine has added is no part of a test or a picture.
    port = _free_port()
    options = ["--server.port", str(port), "--server.fileWatcherType", "none"]
    command = [sys.executable, "-m", "streamlit", "run", "serve.py", *options]
    with tempfile.TemporaryDirectory() as folder:
        environment["EMO_VIZ_HOME"] = str(home or Path(folder) / "home")
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        server = Server(f"http://127.0.0.1:{port}", log, process.pid)
        try:
            _wait_for_health(server, process)
            yield server
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_health(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _is_healthy(server.url):
            return
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"The app did not start:\n{server.log.read_text()}")


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=60) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def launch() -> Iterator[Browser]:
    """A headless Chromium. Raises RuntimeError where there is none."""
    path = chromium.find()
    if path is None:
        raise RuntimeError("No Chromium here: run python tests/browser/chromium.py to get one.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=list(chromium.FLAGS),
            ignore_default_args=["--hide-scrollbars"],  # visitors see them
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def new_page(
    browser: Browser, width: int = 1440, height: int = 900, scheme: str = "light"
) -> Iterator[Page]:
    """A page of a visitor with no cookies, permissions or stored values; on leaving, AssertionError
    if the browser met any error.

    One context serves visitors one after another, and visitors at the same time have one each.
    scheme: "light" or "dark", which Streamlit's theme follows.
    """
    context = _rested.pop(browser, None) or _new_visitor(browser)
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    errors = _collect_errors(page)
    page.on("websocket", lambda socket: _sockets.update({page: socket}))
    try:
        yield page
        exceptions = page.get_by_test_id("stException").all_inner_texts()
        assert not exceptions, "the page shows an exception:\n" + "\n".join(exceptions)
        assert not errors, "the browser met errors:\n" + "\n".join(errors)
    except BaseException:
        context.close()
        raise
    _rest(browser, page)


def _new_visitor(browser: Browser) -> BrowserContext:
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(NOTHING_KEPT + NO_PLACES)
    return context


def _rest(browser: Browser, page: Page) -> None:
    """Keep a visitor who has left for the next one: what has been loaded and compiled is there.

    The tab stays open on an empty answer of the app, without which its process would end.
    """
    context = page.context
    try:
        page.goto("/".join(page.url.split("/")[:3]) + PROBES[0])
    except Error:  # that server is gone
        context.close()
        return
    for other in context.pages:
        if other is not page:
            other.close()
    context.clear_cookies()
    context.clear_permissions()
    if browser in _rested:  # of two visitors at a time
        context.close()
    else:
        _rested[browser] = context


def _collect_errors(page: Page) -> list[str]:
    """Errors on the console, uncaught ones, and requests that leave this machine; it fills up."""
    errors: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        url = message.location.get("url", "")
        # On a deep link the frontend looks for the server beneath the page's path first.
        if message.type == "error" and not url.endswith(PROBES):
            errors.append(f"console: {message.text} ({url})")

    def on_request(request: Request) -> None:
        if request.url.startswith("http") and not request.url.startswith(LOCAL):
            errors.append(f"request to another machine: {request.url}")

    page.on("console", on_console)
    page.on("request", on_request)
    page.on("pageerror", lambda error: errors.append(f"uncaught: {error}"))
    return errors


def visit(page: Page, url: str) -> None:
    """Open an address and wait until the page's first run is over, its charts are drawn and it
    listens to the keyboard."""
    page.goto(url)
    settle(page)
    page.wait_for_function("window.emoVizListens")
    if page.viewport_size and page.viewport_size["width"] <= NARROW:
        page.wait_for_function(FOLDED)  # the side bar's way out widens the page


def settle(page: Page) -> None:
    """Wait until no script runs, nothing is stale, and every Plotly chart is drawn."""
    page.wait_for_function(SETTLED)
    page.wait_for_function(CHARTS_DRAWN)


def change_scheme(page: Page, scheme: str) -> None:
    """The visitor's system turns "light" or "dark", and the open page with it."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.wait_for_function(IS_DARK if scheme == "dark" else f"!({IS_DARK})")
    settle(page)


def open_popover(page: Page, button: Locator) -> None:
    """Click a popover's button until it is open: where the browser takes more than 50 ms to open
    it, Streamlit may take that very click for one beside it, and close it again."""
    button.click()
    page.evaluate(TWO_FRAMES)
    if button.get_attribute("aria-expanded") == "false":
        button.click()
    expect(button).to_have_attribute("aria-expanded", "true")


@contextmanager
def rerun(page: Page) -> Iterator[None]:
    """Around an action that makes Streamlit rerun: leave when that rerun is over.

    with rerun(page):
        page.get_by_role("button", name="Next").click()

    Waits for the server's message that a run ended: a short run can begin and end without the
    page ever showing that it ran.
    """
    with socket_of(page).expect_event("framereceived", _ends_a_run, timeout=WAIT_MS):
        yield
    page.evaluate(TWO_FRAMES)  # let the page take in what came before that message
    settle(page)


def is_within(part: Locator, height: int = 900) -> bool:
    """Whether all of a part is on the first screen."""
    box = part.bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= height


def socket_of(page: Page) -> WebSocket:
    """The one that a page of `new_page` talks to the server through."""
    return _sockets[page]


def _ends_a_run(payload: bytes | str) -> bool:
    assert isinstance(payload, bytes)
    return is_end_of_run(ForwardMsg.FromString(payload))


def is_end_of_run(message: ForwardMsg) -> bool:
    """Whether a script is over and does not start again at once."""
    if message.WhichOneof("type") != "script_finished":
        return False
    return message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN


def wait_for_text(page: Page, text: str) -> None:
    """Wait until a text can be seen on the page (the first place where it stands)."""
    expect(page.get_by_text(text).first).to_be_visible(timeout=WAIT_MS)
