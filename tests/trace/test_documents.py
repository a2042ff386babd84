"""Files of documents: what is read of them, and one sentence that names the file for the rest."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_viz.trace.documents import check_documents, read_documents, texts_digest


@pytest.fixture
def written(tmp_path):
    """Write three documents with columns changed or, with None, left out."""

    def write(**columns) -> Path:
        plain = {"id": ["a", "b", "c"], "domain": ["tea", "tea", "ale"], "text": ["x", "y", "z"]}
        changed = {name: values for name, values in (plain | columns).items() if values is not None}
        path = tmp_path / "given" / "documents.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(changed), path)
        return path

    return write


def test_whole_numbers_are_read_as_text_and_other_columns_are_left(written):
    path = written(id=[3, 1, 2], domain=[7, 7, 8], parent=[1, None, 3], embedding=[0.5, 1.5, 2.5])
    documents = read_documents(path)
    assert documents.fillna("none").to_dict("list") == {
        "id": ["3", "1", "2"],
        "domain": ["7", "7", "8"],
        "text": ["x", "y", "z"],
        "parent": ["1", "none", "3"],
    }


def test_columns_are_those_that_are_asked_for(written):
    path = written(parent=["p", "q", "r"], source=["s", "t", "u"], cut_tokens=["1", "2", "3"])
    assert list(read_documents(path)) == ["id", "domain", "text", "source", "parent"]
    assert list(read_documents(path, optional=())) == ["id", "domain", "text"]
    asked = read_documents(path, required=("parent",), optional=("cut_tokens",))
    assert list(asked) == ["id", "domain", "text", "parent", "cut_tokens"]


def test_categories_and_large_strings_are_text(written):
    path = written(
        domain=pa.array(["tea", "tea", "ale"]).dictionary_encode(),
        text=pa.array(["x", "y", "z"], pa.large_string()),
    )
    assert read_documents(path)["domain"].tolist() == ["tea", "tea", "ale"]


def test_names_of_folders_mean_nothing(written, tmp_path):
    place = tmp_path / "domain=wrong" / "[ab]*?" / "documents.parquet"
    place.parent.mkdir(parents=True)
    written().rename(place)
    assert read_documents(place)["domain"].tolist() == ["tea", "tea", "ale"]


def test_a_name_that_is_not_utf_8(written, tmp_path):
    place = tmp_path / "d\udcff.parquet"
    written().rename(place)
    assert len(read_documents(place)) == 3


def corrupt(path: Path) -> Path:
    """Damage the pages and leave the footer, which alone is read when a file is opened."""
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    return path


LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"id": None, "text": None}, "lack the column text; add it"),
        (
            {"id": ["a", "a", "b"]},
            "The id a stands twice; give each document an id that no other document has",
        ),
        ({"id": [LONG, LONG, "b"]}, "an id that no other document has"),
        ({"domain": ["tea", None, "ale"]}, "need a domain each"),
        ({"text": ["x", None, "z"]}, "1 of 3 documents have no text .the first is b"),
        ({"text": ["x", " \n", "z"]}, "1 of 3 documents have no text"),
        ({"text": [1, 2, 3]}, "The column text holds int64, not text"),
        ({"text": [["x"], ["y"], ["z"]]}, "The column text holds list<.*>, not text"),
        ({"id": [1.0, 2.0, float("nan")]}, "The column id holds double, not text"),
        ({"domain": [True, False, True]}, "The column domain holds bool, not text"),
        ({"text": [b"x", b"y", b"z"]}, "The column text holds binary, not text"),
        ({"part": ["one", "two", None]}, "The part of document a is 'one', not a whole number"),
        ({"part": [1.0, 2.5, None]}, "The part of document b is 2.5, not a whole number"),
        ({"part": [2**40, 2, 3]}, "The part of document a is 1099511627776"),
        ({"parent": ["p", None, "q"]}, "The document b has no parent; give it one"),
        ({"parent": ["p", "p", "q"], "domain": None}, "lack the column domain; add it"),
    ],
)
def test_documents_that_cannot_be_used_are_one_sentence(written, columns, sentence):
    path = written(**columns)
    required = ("parent", "domain") if "parent" in columns else ()
    with pytest.raises(ValueError, match=sentence) as error:
        read_documents(path, required)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_no_documents_at_all(written):
    path = written(**{name: pa.array([], pa.string()) for name in ("id", "domain", "text")})
    with pytest.raises(ValueError, match="There are no documents"):
        read_documents(path)


def test_parts_may_be_missing_and_whole_floats(written):
    parts = read_documents(written(part=[1.0, None, 3.0]))["part"]
    assert parts.isna().tolist() == [False, True, False] and parts.iloc[2] == 3


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p.parent / "none.parquet", "There is no file .*none.parquet"),
        (lambda p: p.parent / "none.jsonl", "name a Parquet, .jsonl or .csv file with a column"),
        (lambda p: Path(__file__), "is not a Parquet file of documents"),
        (corrupt, "documents.parquet is not a Parquet file of documents that can be read"),
    ],
)
def test_files_that_cannot_be_read_are_one_sentence(written, make, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        read_documents(make(written()))
    assert "\n" not in str(error.value)


def test_text_that_is_not_utf_8_is_one_sentence(written, tmp_path):
    bad = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"x\xffz")
    )
    path = written(text=bad)
    with pytest.raises(ValueError, match="The column text holds bytes that are not UTF-8"):
        read_documents(path)


@pytest.mark.parametrize("name", ["id", "domain", "text"])
def test_half_a_character_in_a_table_is_one_sentence(name):
    row = {"id": ["a"], "domain": ["tea"], "text": ["x"]} | {name: ["\ud83d"]}
    table = pd.DataFrame({key: pd.Series(values, dtype=object) for key, values in row.items()})
    with pytest.raises(ValueError, match=f"The {name} of document 0 holds half a character"):
        check_documents(table)


def test_a_digest_is_of_each_text_and_their_order():
    digests = {texts_digest(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], [])}
    assert len(digests) == 4
    assert texts_digest(["ab", "c"]) in digests


ROWS = [("soil", "tea"), ('flour, "sugar"\nand salt', "tea"), ("rope", "ale")]


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(path, index=False)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "jsonl.gz", "parquet"])
def test_a_text_alone_is_a_document(kind, tmp_path):
    path = tmp_path / f"my texts.{kind}"
    table = pd.DataFrame({"text": [text for text, _ in ROWS]})
    if kind == "csv":
        write_csv(path, table)
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        data = write_jsonl(tmp_path / "plain", table.to_dict("records")).read_bytes()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    documents = read_documents(path)
    assert list(documents) == ["id", "domain", "text"]
    assert documents["id"].tolist() == ["1", "2", "3"]
    assert documents["domain"].tolist() == ["my texts"] * 3
    assert documents["text"].tolist() == [text for text, _ in ROWS]


@pytest.mark.parametrize("write", [write_csv, lambda p, t: write_jsonl(p, t.to_dict("records"))])
def test_the_other_columns_are_kept_in_any_form(write, tmp_path):
    table = pd.DataFrame(
        {
            "text": [text for text, _ in ROWS],
            "domain": [domain for _, domain in ROWS],
            "id": [7, 8, 9],
            "part": [1, 2, 3],
            "licence": ["CC0", None, None],
            "embedding": [0.5, 1.5, 2.5],
        }
    )
    path = tmp_path / ("d.csv" if write is write_csv else "d.jsonl")
    documents = read_documents(write(path, table))
    assert list(documents) == ["id", "domain", "text", "licence", "part"]
    assert documents["id"].tolist() == ["7", "8", "9"]
    assert documents["domain"].tolist() == ["tea", "tea", "ale"]
    assert documents["part"].tolist() == [1, 2, 3]
    assert documents["licence"].isna().tolist() == [False, True, True]


def test_long_texts_in_a_csv_file_are_read_whole(tmp_path):
    table = pd.DataFrame({"text": ["long\n" * 10**6, "short"]})
    assert read_documents(write_csv(tmp_path / "d.csv", table))["text"].tolist() == [*table["text"]]


def test_a_folder_of_text_files(tmp_path):
    folder = tmp_path / "shelf"
    for name, text in {"b.txt": "rope", "tea/a.txt": "soil", "tea/c.txt": "roots"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    documents = read_documents(folder)
    assert documents["id"].tolist() == ["b.txt", "tea/a.txt", "tea/c.txt"]
    assert documents["domain"].tolist() == ["shelf", "tea", "tea"]
    assert documents["text"].tolist() == ["rope", "soil", "roots"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("d.jsonl", '{"text": "x"}\n{"text"', "d.jsonl, line 2 is not JSON"),
        ("d.jsonl", '{"text": "x"}\n{"txt": "y"}', "1 of 2 documents have no text .the first is 2"),
        ("d.jsonl", '{"body": "x"}\n{"body": "y"}', "The documents lack the column text; add it"),
        ("d.jsonl", '{"text": 3}', "line 1: the field text is 3, not text"),
        ("d.jsonl", '{"text": "x", "id": true}', "the field id is True, not text"),
        ("d.jsonl", "", "There are no documents"),
        ("d.csv", "", "is not a CSV file of documents"),
        ("d.csv", "text,domain\nx\n", "is not a CSV file of documents"),
        ("d.csv", "texts\nx\n", "lack the column text"),
        ("d.csv", "text,text\nx,y\n", "two columns of one name"),
        ("d.csv", "text,id\nx,1\ny,1\n", "an id that no other document has"),
        ("d/a.txt", b"\xff", "d/a.txt is not UTF-8"),
        ("d/.a.txt", "x", "There are no documents"),
    ],
)
def test_other_files_that_cannot_be_used_are_one_sentence(name, content, sentence, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=sentence) as error:
        read_documents(tmp_path / name.partition("/")[0])
    assert "\n" not in str(error.value)
