"""Damaged documents: recorded, chosen from, clustered, built into a corpus, or one sentence."""

import json
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given

from emo_viz.__main__ import main
from model.data.__main__ import main as data_main
from tests.fuzz.mutations import damaged_bytes, damaged_file, json_bytes, mutated_json
from tests.fuzz.playground import Playground, fuzz, playground


@fuzz(25)
@given(data=st.data())
def test_damaged_documents_are_recorded_or_refused(
    checkpoint: Path, few_documents: Path, data: st.DataObject
):
    with playground() as place:
        file = place.copy(few_documents)
        place.damage(data, file)
        level = data.draw(st.sampled_from(["documents", "tokens"]))
        options = ("--model", checkpoint, "--documents", file, "--out", place.out / "trace")
        place.run(main, "record", *options, "--level", level)


@fuzz(20)
@given(data=st.data())
def test_experts_are_chosen_on_damaged_documents_or_not(
    checkpoint: Path, few_documents: Path, data: st.DataObject
):
    with playground() as place:
        file = place.copy(few_documents)
        place.damage(data, file)
        domain = data.draw(st.sampled_from([(), ("--domain", "garden"), ("--domain", "1")]))
        options = ("--model", checkpoint, "--documents", file, "--out", place.out / "s.json")
        place.run(main, "subset", *options, "--keep", 5, *domain)


@fuzz(20)
@given(data=st.data())
def test_tokens_of_damaged_documents_are_clustered_or_not(
    checkpoint: Path, few_documents: Path, data: st.DataObject
):
    with playground() as place:
        file = place.copy(few_documents)
        place.damage(data, file)
        options = ("--model", checkpoint, "--documents", file, "--out", place.out / "c.npz")
        place.run(main, "clusters", *options, "--clusters", 3)


@fuzz(40)
@given(data=st.data())
def test_a_corpus_is_built_of_damaged_lines_or_not(own_texts: Path, data: st.DataObject):
    with playground() as place:
        file = place.copy(own_texts)
        lines = file.read_bytes().splitlines()
        number = data.draw(st.integers(0, len(lines) - 1))
        row = json.loads(lines[number])
        lines[number] = data.draw(json_bytes(row))
        whole = b"\n".join(lines)
        file.write_bytes(data.draw(st.sampled_from([whole, b"\xef\xbb\xbf" + whole, whole[:900]])))
        build(place, file)


@fuzz(15)
@given(data=st.data())
def test_a_corpus_is_built_of_many_damaged_rows_or_not(own_texts: Path, data: st.DataObject):
    """One field has the same fault in every row."""
    with playground() as place:
        file = place.copy(own_texts)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        changed = data.draw(mutated_json(rows[0]))
        same = {k: v for k, v in changed.items() if rows[0].get(k) != v}
        file.write_text("".join(json.dumps(row | same) + "\n" for row in rows))
        build(place, file)


@fuzz(25)
@given(data=st.data())
def test_a_corpus_is_built_of_a_damaged_table_or_not(own_texts: Path, data: st.DataObject):
    with playground() as place:
        file = place.copy(own_texts.with_suffix(".parquet"))
        file.write_bytes(data.draw(damaged_file(file)))
        build(place, file)


@fuzz(10)
@given(data=st.data())
def test_a_corpus_is_built_of_damaged_compressed_lines_or_not(own_texts: Path, data: st.DataObject):
    import gzip

    with playground() as place:
        file = place.given / "own.jsonl.gz"
        file.write_bytes(data.draw(damaged_bytes(gzip.compress(own_texts.read_bytes(), mtime=0))))
        build(place, file)


def build(place: Playground, file: Path) -> int:
    options = ("--documents", file, "--out", place.out / "corpus", "--vocab-size", 300)
    return place.run(data_main, "build", *options, "--heldout-fraction", 0.3)


def test_whole_documents_are_taken(own_texts: Path):
    """Or all of the above would say nothing."""
    for file in (own_texts, own_texts.with_suffix(".parquet")):
        with playground() as place:
            assert build(place, place.copy(file)) == 0
