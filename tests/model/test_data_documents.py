"""Documents: cut within bounds without loss, free of duplicates, and split by group."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from model.data.collect import Collector
from model.data.documents import (
    MAX_CHARS,
    MIN_CHARS,
    CorpusError,
    Text,
    clean,
    cut,
    hold_out,
    to_frame,
    to_pieces,
    unfit,
)


def prose(name, sentences=12):
    """Sentences that no other name gives, one a line."""
    lines = (
        f"The {name} of day {n} was seen by {name} keeper number {n * 7} at dusk."
        for n in range(sentences)
    )
    return "\n".join(lines)


def text(parent, domain="garden", group="", sentences=12, **fields):
    return Text(domain, parent, prose(f"{domain} {parent}", sentences), group, **fields)


def documents(*texts):
    return [piece for item in texts for piece in to_pieces(item) if not unfit(piece)]


def collected(*texts, limit=10**9):
    collector = Collector(limit)
    for item in texts:
        collector.add(item)
    return [document for domain in collector.documents.values() for document in domain]


LONG_TEXT = st.lists(
    st.sampled_from(["word", "\n", "\n\n", ". ", " ", "x" * 90, "一", "e\u0301", "\t"]),
    max_size=400,
).map("".join)


@given(LONG_TEXT, st.integers(min_value=40, max_value=300))
@settings(deadline=None)
def test_cut_pieces_are_short_enough_and_join_to_the_text(long_text, limit):
    pieces = cut(long_text, limit)
    assert "".join(pieces) == long_text
    assert all(len(piece) <= limit for piece in pieces)


def test_cut_prefers_the_boundary_between_paragraphs():
    first, second = "One line. Two.\nThree " * 4 + "end.", "Another. Paragraph\nhere " * 4
    assert cut(f"{first}\n\n{second}", limit=150) == [f"{first}\n\n", second]


def test_cut_leaves_no_short_remainder():
    pieces = cut("word " * (MAX_CHARS // 5 + 20))
    assert len(pieces) == 2
    assert min(map(len, pieces)) > MAX_CHARS / 3


def test_documents_of_a_long_text_keep_parent_and_part_and_lose_nothing():
    item = text("diary", sentences=700)
    found = documents(item)
    assert [document.part for document in found] == list(range(len(found)))
    assert {document.parent for document in found} == {"diary"}
    assert "".join("".join(d.text for d in found).split()) == "".join(item.text.split())
    assert all(MIN_CHARS <= len(document.text) <= MAX_CHARS for document in found)
    assert len(found) > 4


def test_documents_shorter_than_the_minimum_are_dropped():
    assert documents(Text("garden", "a", "x y " * (MIN_CHARS // 4 - 1))) == []
    assert len(documents(Text("garden", "a", "x y " * (MIN_CHARS // 4 + 1)))) == 1


def test_documents_with_undecodable_characters_are_dropped():
    assert documents(Text("garden", "a", prose("a") + "\ufffd")) == []


def test_clean_takes_control_characters_and_white_space_away():
    assert clean("\x00a \r\n\x07b\r\n\n\n\n\nc\u200b\t \n") == "a\nb\n\nc"
    assert clean("half \ud83d of a pair\udcff") == "half  of a pair"


def test_exact_duplicates_are_dropped_over_all_domains():
    item = text("a")
    shouted = Text("kitchen", "b", item.text.upper().replace(".", " !"))
    assert [document.parent for document in collected(item, shouted)] == ["a"]


def test_near_duplicates_are_dropped_within_a_domain_only():
    lines = prose("a", 20).split("\n")
    mostly_old = "\n".join(lines[:13] + prose("new", 7).split("\n"))
    half_new = "\n".join(lines[:11] + prose("other", 9).split("\n"))
    found = collected(
        Text("garden", "first", "\n".join(lines)),
        Text("garden", "65 percent old", mostly_old),
        Text("kitchen", "65 percent old elsewhere", mostly_old),
        Text("garden", "55 percent old", half_new),
    )
    parents = [document.parent for document in found]
    assert sorted(parents) == ["55 percent old", "65 percent old elsewhere", "first"]


def test_a_domain_stops_at_its_bytes_and_leaves_the_others_alone():
    size = len(text("000").text)
    found = collected(
        *(text(f"{n:03}") for n in range(20)),
        *(text(f"{n:03}", domain="kitchen") for n in range(3)),
        limit=5 * size,
    )
    assert [document.domain for document in found].count("garden") == 5
    assert [document.domain for document in found].count("kitchen") == 3


def test_an_id_that_comes_twice_is_refused():
    with pytest.raises(CorpusError, match="The id one stands twice"):
        collected(text("a", id="one"), text("b", id="one"))


def test_given_ids_are_kept_and_numbered_when_the_text_is_cut():
    short, long = documents(text("a", id="one")), documents(text("b", id="two", sentences=200))
    assert [document.id for document in short] == ["one"]
    assert [document.id for document in long][:2] == ["two-0", "two-1"]


def test_parents_and_groups_never_stand_on_both_sides():
    items = [text(f"p{n}", group=f"thread {n // 3}", sentences=120) for n in range(60)]
    split = hold_out(documents(*items), 0.1)
    assert len(split) > len(items)
    for key in ("parent", "group"):
        sides = {}
        for document in split:
            sides.setdefault(getattr(document, key), set()).add(document.split)
        assert all(len(side) == 1 for side in sides.values())


def test_a_parent_stays_whole_even_when_its_texts_name_different_groups():
    items = [text(f"p{n % 40}", group=f"g{n}") for n in range(120)]
    items = [Text("garden", t.parent, prose(f"{n}"), t.group) for n, t in enumerate(items)]
    sides = {}
    for document in hold_out(documents(*items), 0.2):
        sides.setdefault(document.parent, set()).add(document.split)
    assert set(map(len, sides.values())) == {1}
    assert set.union(*sides.values()) == {"train", "heldout"}


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_about_the_asked_share_of_bytes_is_held_out(fraction):
    items = [text(f"p{n}", sentences=12 + n % 30) for n in range(300)]
    split = hold_out(documents(*items), fraction)
    held = sum(len(d.text.encode()) for d in split if d.split == "heldout")
    assert held / sum(len(d.text.encode()) for d in split) == pytest.approx(fraction, rel=0.16)


def test_a_group_too_large_to_hold_out_stays_in_training():
    for name in range(12):
        giant = [Text("garden", f"g{n}", prose(f"{n}"), f"giant {name}") for n in range(40)]
        split = hold_out(documents(*giant, *(text(f"p{n}") for n in range(60))), 0.1)
        assert 0 < sum(d.split == "heldout" for d in split) <= 12
        assert {d.split for d in split if d.group == f"giant {name}"} == {"train"}


def test_the_split_does_not_depend_on_the_order_of_the_texts():
    found = documents(*(text(f"p{n}") for n in range(100)))
    forward = {d.parent: d.split for d in hold_out(found, 0.1)}
    assert forward == {d.parent: d.split for d in hold_out(found[::-1], 0.1)}


def test_the_frame_is_sorted_by_split_and_mixes_the_domains():
    items = [text(f"{n}", domain=domain) for domain in ("garden", "kitchen") for n in range(100)]
    frame = to_frame(hold_out(documents(*items), 0.2), seed=0)
    assert frame["split"].is_monotonic_increasing
    train = frame[frame["split"] == "train"]["domain"]
    changes = (train != train.shift()).mean()
    assert 0.3 < changes < 0.7
    again = to_frame(hold_out(documents(*items[::-1]), 0.2), seed=0)
    assert frame["id"].tolist() == again["id"].tolist()
    other = to_frame(hold_out(documents(*items), 0.2), seed=1)
    assert frame["id"].tolist() != other["id"].tolist()
