"""A session is saved and opened again, on the page that it was saved on; others follow."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.ui.shell import session_file
from tests.pages.opened import follow_link, run, texts

ABLATION, KERNEL = "pages/3_Subset_ablation.py", "pages/4_Kernel.py"
ADDRESSES = {"Subset ablation": {"k": ["4"]}, "Token routing": {"routing_layer": ["1"]}}


def session(**changes) -> bytes:
    fields = {"emo_viz_session": 1, "page": "Subset ablation", "addresses": ADDRESSES}
    return json.dumps(fields | changes).encode()


def test_what_is_saved_is_read_again():
    page, addresses = session_file.read(session_file.text("Token routing", ADDRESSES).encode())
    assert (page, addresses) == ("Token routing", ADDRESSES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"page": "x"}',
        b"[" * 100_000,
        session(page=3),
        session(addresses=[]),
        session(addresses={"x": 1}),
        session(addresses={"x": {"k": [1]}}),
        session(addresses={"x": {"k": 4}}),
    ],
)
def test_what_is_no_session_is_refused_in_one_sentence(data: bytes):
    with pytest.raises(ValueError, match="no session file of EMO Viz; nothing was changed"):
        session_file.read(data)


def test_an_older_file_knows_a_page_by_its_name_of_then():
    data = session_file.text("EMO Viz", {"EMO Viz": {"home_k": ["32"]}}).encode()
    assert session_file.read(data) == ("Overview", {"Overview": {"home_k": ["32"]}})


def test_another_version_and_a_large_file_have_sentences_of_their_own():
    with pytest.raises(ValueError, match="another version"):
        session_file.read(session(emo_viz_session=2))
    with pytest.raises(ValueError, match="at most 1,000 kB"):
        session_file.read(b" " * (session_file.MOST_BYTES + 1))


def upload(at: AppTest, data: bytes) -> AppTest:
    at.get("file_uploader")[0].upload("session.json", data, "application/json")
    return run(at)


def test_opening_one_goes_to_its_page_and_the_others_wait(tiny_assets):
    at = upload(follow_link(KERNEL), session())
    assert at.title[0].value == "Subset ablation"
    assert at.query_params["k"] in ("4", ["4"])
    at.query_params.clear()  # as the side bar's links do
    at.switch_page("pages/1_Token_routing.py")
    assert run(at).session_state["routing_layer"] == 1


def test_a_broken_one_is_said_and_nothing_changes(tiny_assets):
    at = upload(follow_link(ABLATION, k="4"), b"{}")
    assert "no session file" in texts(at)
    assert at.title[0].value == "Subset ablation" and at.query_params["k"] in ("4", ["4"])
