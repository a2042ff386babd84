"""Within the drawing of a page the disk is asked once; what was changed meanwhile is asked anew."""

from pathlib import Path

import pytest

from emo_viz.server import assets, home, looks


def test_within_a_look_the_same_is_asked_once():
    asked = list[str]()

    @looks.once
    def ask(name: str) -> str:
        asked.append(name)
        return name.upper()

    with looks.one():
        assert [ask("a"), ask("a"), ask("b")] == ["A", "A", "B"]
    assert asked == ["a", "b"]
    assert ask("a") == "A" and ask("a") == "A"
    assert asked == ["a", "b", "a", "a"], "outside of a look nothing is kept"


def test_what_is_raised_is_not_kept():
    answers = iter([None, "there"])

    @looks.once
    def ask() -> str:
        answer = next(answers)
        if answer is None:
            raise ValueError("not there yet")
        return answer

    with looks.one():
        with pytest.raises(ValueError, match="not there yet"):
            ask()
        assert ask() == "there"


def test_a_run_that_is_added_or_deleted_while_a_page_is_drawn_counts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("EMO_VIZ_HOME", str(tmp_path / "home"))
    with looks.one():
        assert assets.runs() == []
        home.add("mine", str(tmp_path), ())
        assert [run.id for run in assets.runs()] == ["mine"] and assets.is_added("mine")
        home.delete("mine")
        assert assets.runs() == [] and not assets.is_added("mine")


def test_a_file_that_is_replaced_has_other_content_in_the_next_look(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_text("one")
    with looks.one():
        before = assets.content(file)
    file.write_text("two")
    with looks.one():
        assert assets.content(file) != before
