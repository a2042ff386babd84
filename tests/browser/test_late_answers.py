"""A visitor who is quicker than the server: an answer to an earlier choice undoes no later one."""

import re
from collections.abc import Callable, Iterator
from functools import partial

import harness
import pytest
from playwright.sync_api import Page, WebSocketRoute, expect
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

ROUTING = "Token_routing?routing_domain=harbour"
ABLATION = "Subset_ablation?k=8"


class Line:
    """The page's connection, whose answers can be held back and let through one run at a time."""

    def __init__(self, page: Page) -> None:
        self.page, self.holding, self.asked = page, False, 0
        self._held: list[bytes | str] = []
        page.route_web_socket("**/_stcore/stream", self._opened)

    def _opened(self, browser: WebSocketRoute) -> None:
        self._browser, server = browser, browser.connect_to_server()
        server.on_message(self._answered)

        def ask(message: bytes | str) -> None:
            self.asked += 1
            server.send(message)

        browser.on_message(ask)

    def _answered(self, message: bytes | str) -> None:
        if self.holding:
            self._held.append(message)
        else:
            self._browser.send(message)

    def until(self, there: Callable[[], bool]) -> None:
        """Let the browser go on until something is so."""
        frames = iter(range(20_000))
        while not there():
            next(frames)
            self.page.evaluate(harness.TWO_FRAMES)

    def finished(self) -> int:
        """How many runs of the script the answers held back bring to an end."""
        return sum(_ends(message) for message in self._held)

    def let_one_run_through(self) -> None:
        ended = 0
        while not ended:
            message = self._held.pop(0)
            ended += _ends(message)
            self._browser.send(message)
        for _ in range(5):
            self.page.evaluate(harness.TWO_FRAMES)

    def let_all_through(self) -> None:
        self.holding = False
        for message in self._held:
            self._browser.send(message)
        self._held.clear()


def _ends(message: bytes | str) -> bool:
    if isinstance(message, str):
        return False
    read = ForwardMsg.FromString(message)
    return read.WhichOneof("type") == "script_finished"


@pytest.fixture
def line(browser_page: Page) -> Iterator[Line]:
    yield Line(browser_page)


def two_choices(line: Line, first: Callable[[], None], second: Callable[[], None]) -> None:
    """Both made before the server's answer to the first arrives, which then does alone."""
    line.holding = True
    first()
    line.until(lambda: line.finished() == 1)
    asked = line.asked
    second()
    line.until(lambda: line.asked > asked)
    line.let_one_run_through()


def taken_back(line: Line, first: Callable[[], None], second: Callable[[], None]) -> None:
    """The second choice undoes the first, whose address the browser hears of before it."""
    page, before = line.page, line.page.url
    two_choices(line, first, second)
    expect(page).not_to_have_url(before)
    line.let_all_through()
    expect(page).to_have_url(before)


def test_a_token_chosen_later_stays_chosen(app_server: harness.Server, line: Line):
    page = line.page
    harness.visit(page, f"{app_server.url}/{ROUTING}")
    first, last = (page.get_by_role("radio", name=name, exact=True) for name in "01")
    expect(last).to_be_checked()
    taken_back(line, first.click, last.click)
    expect(last).to_be_checked()
    tokens = page.locator(".st-key-routing_strip .token")
    two_choices(line, tokens.nth(2).click, tokens.nth(5).click)
    expect(tokens.nth(5)).to_have_attribute("aria-selected", "true")
    expect(tokens.nth(2)).not_to_have_attribute("aria-selected", "true")
    line.let_all_through()
    harness.wait_for_text(page, "Token 6 of")
    a_double_click_takes_back(line)
    expect(tokens.nth(5)).to_have_attribute("aria-selected", "true")


def a_double_click_takes_back(line: Line) -> None:
    """What its first click has chosen, and its step, whatever the step before it chose."""
    page, token = line.page, re.compile("routing_token=6")
    expect(page).to_have_url(token)
    stage = page.locator(".st-key-routing_map .stage")
    click = partial(stage.click, position={"x": 205, "y": 185})
    click()
    expect(page).not_to_have_url(token)
    page.locator(".st-key-routing_strip .token").nth(5).click()
    expect(page).to_have_url(token)
    step = page.evaluate("history.state.emoViz")
    taken_back(line, click, partial(click_again, page))
    page.wait_for_function("(step) => history.state.emoViz === step", arg=step)


def click_again(page: Page) -> None:
    page.mouse.down(click_count=2)
    page.mouse.up(click_count=2)


def test_a_slider_moved_on_stays_where_it_is(app_server: harness.Server, line: Line):
    page = line.page
    harness.visit(page, f"{app_server.url}/{ABLATION}")
    slider = page.get_by_role("slider").first
    slider.focus()
    press = partial(slider.press, "Shift+ArrowRight")
    two_choices(line, press, press)
    expect(slider).to_have_attribute("aria-valuenow", "10")
    line.let_all_through()
    expect(page).to_have_url(re.compile("k=10"))
