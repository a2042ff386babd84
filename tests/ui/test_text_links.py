"""A text in a link: it comes back as it was, or the link says that it cannot."""

import random
from urllib.parse import quote

import pytest

from emo_viz.ui.parts import text_links
from emo_viz.ui.parts.text_links import KEPT, MOST_PLAIN, PACKED, code_of, text_of, without_halves

MOST = 100_000
LETTERS = [chr(code) for code in range(0x4E00, 0x8E00)]


def noise(length: int) -> str:
    """A text that does not compress."""
    return "".join(random.Random(length).choices(LETTERS, k=length))


@pytest.mark.parametrize(
    "text",
    ["a", "soil & seeds?\n\t#", "שלום " * 30, "ab " * 2000, "~z.abc", "~k.abc", noise(MOST)],
    ids=["letter", "signs", "hebrew", "long", "like packed", "like kept", "noise"],
)
def test_a_text_comes_back_from_its_link(text: str):
    assert text_of(code_of(text), MOST) == text
    assert len(quote(code_of(text))) <= 9_000


def test_each_way_is_used():
    assert code_of("soil") == "soil"
    assert code_of("soil " * 1000).startswith(PACKED)
    assert code_of(noise(5_000)).startswith(KEPT) and text_links.is_kept_here(noise(5_000))
    assert not text_links.is_kept_here("soil " * 1000)


def test_a_script_that_is_long_when_encoded_is_packed():
    text = "ก" * (MOST_PLAIN // 2)
    assert code_of(text).startswith(PACKED)


@pytest.mark.parametrize(
    "code",
    [PACKED, PACKED + "AAAA", PACKED + "é", PACKED + "a", KEPT, KEPT + "0" * 32, KEPT + "é"],
)
def test_a_damaged_link_has_no_text(code: str):
    with pytest.raises(ValueError):
        text_of(code, MOST)


def test_a_link_cut_off_has_no_text():
    code = code_of("anchor rope mast " * 900)
    for length in (4, 10, len(code) // 2, len(code) - 1):
        with pytest.raises(ValueError):
            text_of(code[:length], MOST)


def test_a_small_link_cannot_hold_a_huge_text():
    code = code_of("a" * 50_000)
    with pytest.raises(ValueError):
        text_of(code, 10_000)


def test_the_store_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_links, "MOST_KEPT", 2)
    store = text_links.Kept()
    digests = [store.put(text) for text in "abc"]
    assert [store.get(digest) for digest in digests[1:]] == ["b", "c"]
    with pytest.raises(ValueError):
        store.get(digests[0])


def test_half_characters_are_replaced_and_whole_ones_put_together():
    assert without_halves("a\ud800b") == "a\ufffdb"
    assert without_halves("\ud83d\ude42") == "🙂"
    assert without_halves("\ufeffa") == "\ufeffa"
