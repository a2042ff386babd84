"""A server warms up before its first visitor: what he needs is loaded, and he is never held up."""

import gc
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.server import caches, library, warm

SECONDS = 600


def test_a_visitor_gets_the_models_that_were_warmed(tiny_assets: Path, monkeypatch):
    loaded = []
    monkeypatch.setattr("model.run.live.open_live", _counting(loaded))
    library._hold.clear()
    library._load.clear()
    warming = warm.Warming()
    warming.start()
    warming.start()
    assert warming.wait(SECONDS)
    assert len(loaded) == 2
    assert [one.run for one in library.models()] == ["emo-nano", "std-nano"]
    assert len(loaded) == 2


def _counting(loaded: list):
    from model.run.live import open_live

    def counted(path, *arguments):
        loaded.append(path)
        return open_live(path, *arguments)

    return counted


def test_no_step_begins_while_a_page_is_drawn(monkeypatch):
    done: list[int] = []
    monkeypatch.setattr(warm, "steps", lambda pages: iter([lambda: done.append(1)]))
    monkeypatch.setattr(warm, "MOST_SECONDS", SECONDS)
    warming = warm.Warming()
    with warming.drawing:
        warming.start()
        assert not warming.wait(0.05) and not done
    assert warming.wait(SECONDS) and done == [1]


def test_what_the_pages_prepare_comes_before_the_models(tiny_assets: Path):
    steps = list(warm.steps(lambda: [_prepared]))
    models = [place for place, step in enumerate(steps) if "torch" in repr(step)]
    assert steps.index(_prepared) < min(models)


def test_a_step_of_a_page_that_fails_stops_no_other():
    done: list[int] = []

    def stale():
        raise ValueError("of other checkpoints")

    warming = warm.Warming()
    warming.start(lambda: [stale, lambda: done.append(1)])
    assert warming.wait(SECONDS) and done == [1]


def test_what_visitors_have_is_not_kept_from_collection(monkeypatch):
    frozen = list[str]()
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append("frozen"))
    monkeypatch.setattr(caches, "visitors", lambda: 1)
    warm._leave_alone()
    assert not frozen
    monkeypatch.undo()
    assert caches.visitors() == 0  # no server runs here
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append("frozen"))
    warm._leave_alone()
    assert frozen == ["frozen"]


def _prepared() -> None:
    """Stands for what a page prepares."""


def test_what_cannot_be_warmed_is_left_to_who_asks_for_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path))
    warming = warm.Warming()
    warming.start()
    assert warming.wait(SECONDS)
    with pytest.raises(library.Missing):
        library.models()


def test_a_large_model_is_not_loaded_before_it_is_asked_for(tiny_assets: Path, monkeypatch):
    loaded = []
    monkeypatch.setattr("model.run.live.open_live", _counting(loaded))
    monkeypatch.setattr("emo_viz.server.assets.LARGE_WEIGHTS", 10)
    library._hold.clear()
    library.warm_up("emo-nano")
    assert not loaded


def _part() -> None:
    """AppTest runs the source of this function by itself."""
    import streamlit as st

    from emo_viz.server import warm
    from emo_viz.ui.shell import links

    with links.fragment():
        st.text(str(warm.WARMING.drawing._count))


def test_a_part_of_a_page_that_is_drawn_by_itself_counts_as_a_page():
    at = AppTest.from_function(_part).run()
    assert not at.exception and at.text[0].value == "1"
    assert warm.WARMING.drawing._count == 0
