"""Documents: cut within bounds without loss, free of duplicates, and split by group."""

import tracemalloc
from dataclasses import asdict

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from model.data import documents as model_documents
from model.data.collect import Collector
from model.data.documents import (
    BOUNDARIES,
    MAX_CHARS,
    MIN_CHARS,
    CorpusError,
    Marks,
    Text,
    clean,
    cut,
    digest,
    to_pieces,
    unfit,
)
from model.data.known import Known
from model.data.ledger import Ledger, texts_at
from model.data.places import read_texts_at
from model.data.spool import Spool


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


def spooled(folder, *texts, limit=10**9):
    """A spool that took these texts."""
    folder.mkdir(exist_ok=True)
    collector = Collector(limit, spool := Spool(folder))
    for item in texts:
        collector.add(item)
    spool.write({})
    return spool


@pytest.fixture
def collected(tmp_path):
    def rows(*texts, **options):
        (part,) = spooled(tmp_path / "spool", *texts, **options).rows()
        return pd.DataFrame(part)

    return rows


def ordered(folder, rows, fraction, seed=0):
    """A ledger of these rows, in parts of seven."""
    (ledger := Ledger(folder)).fill(rows[at : at + 7] for at in range(0, len(rows), 7))
    ledger.order(fraction, seed)
    return ledger


def row_of(document):
    return asdict(document) | {"start": 0, "bytes": len(document.text.encode())}


@pytest.fixture
def held(tmp_path):
    """The documents that are held out."""

    def out(documents, fraction):
        ledger = ordered(tmp_path, list(map(row_of, documents)), fraction)
        ids = {row["id"] for rows in ledger.batches(9, "heldout") for row in rows}
        return [item for item in documents if item.id in ids]

    return out


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


def slow_place(text):
    """Of all boundaries of the middle half, of the most natural kind that is there, the nearest."""
    low, high, middle = len(text) // 4, len(text) * 3 // 4, len(text) // 2
    for pattern in BOUNDARIES:
        if places := [found.end() for found in pattern.finditer(text, low, high)]:
            return min(places, key=lambda place: abs(place - middle))
    return middle


def test_cut_is_where_a_search_of_all_boundaries_puts_it(monkeypatch):
    monkeypatch.setattr(model_documents, "NEAR", 2)
    rng = np.random.default_rng(0)
    for choice in ("word", "word |. ", ".|word ", "a|\n|.  |  ", "a|\n\n|\nb. ", ".'|    |一"):
        for _ in range(150):
            made = clean("".join(rng.choice(choice.split("|"), rng.integers(1, 200))))
            if len(made) > 40:
                first, second = (pieces := cut(made, len(made) - 1))[0], "".join(pieces[1:])
                assert (first, first + second) == (made[: slow_place(made)], made)


def test_a_long_line_is_cut_without_looking_at_all_of_its_boundaries(monkeypatch):
    """A match is what takes time: a second for a million."""
    seen = []
    around = model_documents._around

    def counted(matches, middle):
        return around((seen.append(1) or match for match in matches), middle)

    monkeypatch.setattr(model_documents, "_around", counted)
    pieces = cut("." * 200_000)
    assert len(pieces) == 64 and len(seen) < 200 * len(pieces) * 2


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


def test_exact_duplicates_are_dropped_over_all_domains(collected):
    item = text("a")
    shouted = Text("kitchen", "b", item.text.upper().replace(".", " !"))
    assert collected(item, shouted)["parent"].tolist() == ["a"]


def test_near_duplicates_are_dropped_within_a_domain_only(collected):
    lines = prose("a", 20).split("\n")
    mostly_old = "\n".join(lines[:13] + prose("new", 7).split("\n"))
    half_new = "\n".join(lines[:11] + prose("other", 9).split("\n"))
    found = collected(
        Text("garden", "first", "\n".join(lines)),
        Text("garden", "65 percent old", mostly_old),
        Text("kitchen", "65 percent old elsewhere", mostly_old),
        Text("garden", "55 percent old", half_new),
    )
    assert sorted(found["parent"]) == ["55 percent old", "65 percent old elsewhere", "first"]


def test_a_domain_stops_at_its_bytes_and_leaves_the_others_alone(collected):
    size = len(text("000").text)
    found = collected(
        *(text(f"{n:03}") for n in range(20)),
        *(text(f"{n:03}", domain="kitchen") for n in range(3)),
        limit=5 * size,
    )
    assert found["domain"].value_counts().to_dict() == {"garden": 5, "kitchen": 3}


def test_an_id_that_comes_twice_is_refused(collected):
    with pytest.raises(CorpusError, match="The id one stands twice"):
        collected(text("a", id="one"), text("b", id="one"))


def test_given_ids_are_kept_and_numbered_when_the_text_is_cut():
    short, long = documents(text("a", id="one")), documents(text("b", id="two", sentences=200))
    assert [document.id for document in short] == ["one"]
    assert [document.id for document in long][:2] == ["two-0", "two-1"]


def test_parents_and_groups_never_stand_on_both_sides(held):
    items = documents(*(text(f"p{n}", group=f"thread {n // 3}", sentences=120) for n in range(60)))
    out = held(items, 0.1)
    assert 0 < len(out) < len(items)
    for key in ("parent", "group"):
        inside = {getattr(item, key) for item in out}
        assert [item for item in items if getattr(item, key) in inside] == out


def test_a_parent_stays_whole_even_when_its_texts_name_different_groups(held):
    items = [text(f"p{n % 40}", group=f"g{n}") for n in range(120)]
    items = [Text("garden", t.parent, prose(f"{n}"), t.group) for n, t in enumerate(items)]
    out = held(documents(*items), 0.2)
    assert 0 < len(out) < 120
    assert len(out) == 3 * len({item.parent for item in out})


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_about_the_asked_share_of_bytes_is_held_out(fraction, held):
    items = [text(f"p{n}", sentences=12 + n % 30) for n in range(300)]
    found = documents(*items)
    sizes = [sum(len(d.text.encode()) for d in some) for some in (held(found, fraction), found)]
    assert sizes[0] / sizes[1] == pytest.approx(fraction, rel=0.16)


def test_a_group_too_large_to_hold_out_stays_in_training(held):
    for name in range(12):
        giant = [Text("garden", f"g{n}", prose(f"{n}"), f"giant {name}") for n in range(40)]
        out = held(documents(*giant, *(text(f"p{n}") for n in range(60))), 0.1)
        assert 0 < len(out) <= 12
        assert f"giant {name}" not in {item.group for item in out}


def test_the_split_does_not_depend_on_the_order_of_the_texts(held):
    found = documents(*(text(f"p{n}") for n in range(100)))
    assert {d.parent for d in held(found, 0.1)} == {d.parent for d in held(found[::-1], 0.1)}


def test_the_rows_are_sorted_by_split_and_mix_the_domains(tmp_path):
    items = [text(f"{n}", domain=domain) for domain in ("garden", "kitchen") for n in range(100)]

    def frame(name, texts, seed):
        spool = spooled(tmp_path / name, *texts)
        (ledger := Ledger(spool.folder)).fill(spool.rows())
        ledger.order(0.2, seed)
        return ledger, pd.DataFrame([row for rows in ledger.batches(7) for row in rows])

    ledger, rows = frame("one", items, seed=0)
    assert rows["split"].is_monotonic_increasing
    train = rows[rows["split"] == "train"]["domain"]
    assert 0.3 < (train != train.shift()).mean() < 0.7
    assert rows["id"].tolist() == frame("two", items[::-1], seed=0)[1]["id"].tolist()
    assert rows["id"].tolist() != frame("three", items, seed=1)[1]["id"].tolist()
    texts = list(read_texts_at(tmp_path / "one", texts_at(ledger.file, range(len(items)))))
    assert sorted(texts) == sorted(item.text for item in items)


def test_what_was_kept_takes_no_memory(tmp_path):
    """800 documents with 40 lines each: 32,000 numbers alone would take a megabyte."""
    known = Known(tmp_path / "known.sqlite")
    own = [Marks(f"{n:040x}", [(n * 40 + line) << 40 for line in range(40)]) for n in range(800)]
    tracemalloc.start()
    for number, each in enumerate(own):
        assert known.why_not("garden", each) is None
        known.remember("garden", each, f"id {number}", f"line {number}")
    assert tracemalloc.get_traced_memory()[0] < 100_000
    tracemalloc.stop()
    assert [known.why_not("garden", each) for each in own[::200]] == ["duplicate"] * 4
    assert known.why_not("garden", own[7]._replace(letters="ff")) == "near_duplicate"
    assert known.why_not("kitchen", own[7]._replace(letters="ff")) is None
    assert known.place_of("id 9") == "line 9" and known.place_of("id 800") is None


def slow_order(rows, fraction, seed):
    """Number and split of every document, in order: all in memory."""
    held = set()
    for domain in {row["domain"] for row in rows}:
        group_of, sizes = {}, {}
        for row in (row for row in rows if row["domain"] == domain):
            group = group_of.setdefault(row["parent"], row["group"])
            sizes[group] = sizes.get(group, 0) + row["bytes"]
        taken, target = 0, fraction * sum(sizes.values())
        for group in sorted(sizes, key=lambda name: digest("heldout", name)):
            if taken < target and taken + sizes[group] <= 1.15 * target:
                held |= {(domain, parent) for parent in group_of if group_of[parent] == group}
                taken += sizes[group]
    split = ["heldout" if (row["domain"], row["parent"]) in held else "train" for row in rows]
    numbers = sorted(range(len(rows)), key=lambda n: (split[n], digest(seed, rows[n]["id"])))
    return [(rows[n]["id"], split[n]) for n in numbers]


def test_order_and_split_are_what_is_found_in_memory(tmp_path):
    draw = np.random.default_rng(0)
    names = ("source", "licence", "rights")
    rows = [
        dict.fromkeys(names, "")
        | {"id": f"d{n}", "domain": f"{draw.integers(5)}", "parent": f"p{draw.integers(90)}"}
        | {"group": f"g{draw.integers(60)}", "part": 0, "start": n, "bytes": int(draw.integers(99))}
        for n in range(400)
    ]
    for fraction, seed in ((0.1, 0), (0.4, 3)):
        ledger = ordered(tmp_path, rows, fraction, seed)
        found = [(row["id"], row["split"]) for rows in ledger.batches(64) for row in rows]
        assert found == slow_order(rows, fraction, seed)
