"""The two slots of every page: in the address, kept between pages, and of one visitor alone."""

import os
import shutil
from pathlib import Path

import pytest
from streamlit.runtime import Runtime
from streamlit.testing.v1 import AppTest

from emo_viz.server import assets, home
from emo_viz.ui.shell import chrome
from tests.pages.opened import follow_link, run, texts

HOME, LIBRARY = "", "pages/6_Library.py"


@pytest.fixture(autouse=True)
def mine(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that the user has added: the id of it."""
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tiny_assets))
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    folder = shutil.copytree(tiny_assets / "checkpoints" / "std-nano", tmp_path / "mine")
    added = home.add("mine", os.fspath(folder), ["emo-nano", "std-nano"])
    shutil.copytree(tiny_assets / "traces" / "std-nano", home.trace_path(added.id))
    return added.id


def slots(at: AppTest) -> tuple[str, str]:
    return at.selectbox(key="a").value, at.selectbox(key="b").value


def address(at: AppTest) -> dict[str, str]:
    return {name: _one(at.query_params[name]) for name in ("a", "b") if name in at.query_params}


def _one(value: str | list[str]) -> str:
    """AppTest gives what a test has set as it was set."""
    return value if isinstance(value, str) else value[0]


@pytest.mark.parametrize("page", ["", *sorted(p.name for p in Path("pages").glob("*.py"))])
def test_every_page_has_them_and_begins_with_the_bundled_pair(page: str):
    at = follow_link(f"pages/{page}" if page else "")
    assert slots(at) == ("emo-nano", "std-nano")
    assert address(at) == {}


def test_they_stand_in_the_address():
    at = follow_link(LIBRARY)
    at.selectbox(key="a").set_value("mine")
    at.selectbox(key="b").set_value("none")
    run(at)
    assert address(at) == {"a": "mine", "b": "none"}


def test_a_link_sets_them_and_they_stay_from_page_to_page():
    at = follow_link(LIBRARY, a="mine", b="emo-nano")
    assert slots(at) == ("mine", "emo-nano")
    at.switch_page("app.py")
    at.query_params.clear()
    run(at)
    assert slots(at) == ("mine", "emo-nano")
    assert address(at) == {"a": "mine", "b": "emo-nano"}


def test_a_run_is_not_beside_itself():
    at = follow_link(LIBRARY, a="std-nano")
    assert slots(at) == ("std-nano", "emo-nano")
    assert "std-nano" not in at.selectbox(key="b").options
    at = follow_link(LIBRARY, a="mine", b="mine")
    assert slots(at) == ("mine", "std-nano")
    assert "The link asks for the run" in texts(at)


@pytest.mark.parametrize("asked", ["nowhere", "../../etc", "<script>", "x" * 5000, ""])
def test_a_run_that_is_not_here_is_named_and_the_default_shown(asked: str):
    at = follow_link(LIBRARY, a=asked)
    assert slots(at) == ("emo-nano", "std-nano")
    assert [each.value.count("EMO is shown") for each in at.warning] == [1]
    assert "<script>" not in texts(at)
    assert address(at) == {}


def test_a_run_deleted_under_an_open_page_is_one_sentence():
    at = follow_link(LIBRARY, a="mine")
    home.delete("mine")
    run(at)
    assert slots(at) == ("emo-nano", "std-nano")
    assert [each.value for each in at.warning] == [
        "The run mine is no longer here; EMO is shown instead, and the Library page lists what "
        "there is."
    ]
    run(at)
    assert not at.warning


def test_two_visitors_never_see_each_others(tiny_assets: Path):
    """By values: what stands in their slots, and the numbers on the page that come from them."""
    one, other = follow_link(HOME, a="mine", b="none"), follow_link(HOME)
    for _ in range(2):
        run(one), run(other)
        assert slots(one) == ("mine", "none")
        assert slots(other) == ("emo-nano", "std-nano")
        mine, bundled = texts(one), texts(other)
        assert "**mine**" in mine and "**mine**" not in bundled
        assert "in EMO" in bundled and "in EMO" not in mine
    one.selectbox(key="a").set_value("std-nano")
    run(one)
    run(other)
    assert slots(one)[0] == "std-nano" and slots(other) == ("emo-nano", "std-nano")


def test_a_visitor_who_comes_in_between_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    """Another visitor's whole run falls between the choice of the runs and the page that shows
    them."""
    one, other = follow_link(HOME, a="mine", b="none"), follow_link(HOME)
    loaded, between = chrome._loaded, [lambda: run(other)]

    def with_another() -> None:
        loaded()
        if between:
            runtime = Runtime._instance  # AppTest lets go of it at the end of every run
            between.pop()()
            Runtime._instance = runtime

    monkeypatch.setattr(chrome, "_loaded", with_another)
    run(one)
    assert not between
    assert "**mine**" in texts(one) and "in EMO" not in texts(one)
    assert "in EMO" in texts(other) and "**mine**" not in texts(other)


def test_the_runs_of_the_app_are_the_bundled_ones_and_those_that_were_added(mine: str):
    assert [each.id for each in assets.runs()] == ["emo-nano", "std-nano", mine]
    assert assets.trace_path(mine) == home.trace_path(mine)


def test_a_link_that_asks_for_one_run_twice_says_so():
    at = follow_link(HOME, a="emo-nano", b="emo-nano")
    (said,) = [warning.value for warning in at.warning]
    assert "in both slots" in said and "is not here" not in said
