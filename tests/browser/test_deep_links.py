"""Every page opens as the first thing that a fresh server is asked, and can be walked to."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import harness
import pytest
from playwright.sync_api import Browser, Page, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect
from websockets.typing import Subprotocol

ADDRESSES = harness.addresses()


def title_of(address: str) -> str:
    return address.replace("_", " ")


def expect_page(page: Page, server: harness.Server, address: str) -> None:
    assert page.url.split("?")[0] == f"{server.url}/{address}"
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    if address:
        expect(page.get_by_role("heading", level=1)).to_contain_text(title_of(address))
    links = page.get_by_test_id("stSidebar").get_by_test_id("stPageLink-NavLink")
    expect(links).to_have_count(len(ADDRESSES))


def test_a_page_opens_as_the_first_request_to_a_fresh_server(tiny_assets: Path, browser: Browser):
    with harness.serve(tiny_assets) as server, harness.new_page(browser) as page:
        harness.visit(page, f"{server.url}/{ADDRESSES[-1]}")
        expect_page(page, server, ADDRESSES[-1])


def first_run(server: harness.Server, address: str) -> list[ForwardMsg]:
    """All that the server says to a visitor who opens a page, as a browser would but drawing none.

    Eleven that draw take longer to load than the server to import what the pages race for.
    """
    opening, said = BackMsg(), []
    opening.rerun_script.page_name = address
    stream = f"{server.url.replace('http', 'ws', 1)}/_stcore/stream"
    with connect(stream, subprotocols=[Subprotocol("streamlit")], max_size=None) as socket:
        socket.send(opening.SerializeToString())
        while not said or not harness.is_end_of_run(said[-1]):
            said.append(ForwardMsg.FromString(socket.recv(timeout=harness.START_SECONDS)))
    return said


def test_every_page_opens_at_once_on_a_fresh_server(tiny_assets: Path):
    with harness.serve(tiny_assets) as server, ThreadPoolExecutor(len(ADDRESSES)) as visitors:
        answers = list(visitors.map(partial(first_run, server), ADDRESSES))
    for address, said in zip(ADDRESSES, answers, strict=True):
        elements = [message.delta.new_element for message in said]
        titles = [each.heading.body for each in elements if each.heading.tag == "h1"]
        assert titles == [title_of(address) or "Overview"]
        assert not [each for each in elements if each.WhichOneof("type") == "exception"]
        assert not [message for message in said if message.WhichOneof("type") == "page_not_found"]
        assert said[-1].script_finished == ForwardMsg.FINISHED_SUCCESSFULLY


@pytest.fixture(scope="module")
def without_assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Server]:
    with harness.serve(tmp_path_factory.mktemp("nothing")) as server:
        yield server


def test_the_sidebar_leads_to_every_page_and_without_assets_none_is_an_exception(
    without_assets: harness.Server, browser_page: Page
):
    harness.visit(browser_page, without_assets.url)
    sidebar = browser_page.get_by_test_id("stSidebar")
    heading = browser_page.get_by_role("heading", level=1)
    expect(heading).to_have_count(1)
    for address in ADDRESSES[1:]:
        with harness.rerun(browser_page):
            sidebar.get_by_role("link", name=title_of(address)).click()
        expect(heading).to_contain_text(title_of(address))
        assert not browser_page.get_by_test_id("stException").count()


@pytest.mark.parametrize("address", [ADDRESSES[1], ADDRESSES[-1]])
def test_a_link_to_a_page_without_assets_opens_it(
    address: str, without_assets: harness.Server, browser_page: Page
):
    harness.visit(browser_page, f"{without_assets.url}/{address}")
    expect_page(browser_page, without_assets, address)
