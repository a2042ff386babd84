"""Inputs that people have: the commands take them, or say in one sentence what is wrong."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emo_viz.__main__ import main
from emo_viz.trace import Trace
from model.data.__main__ import main as data_main
from tests.fuzz.playground import Playground, playground

BOM = b"\xef\xbb\xbf"
WORDS = "ribbon walnut orchard river thunder window pepper marble ladder anchor bottle basket"


@pytest.fixture
def place():
    with playground() as made:
        yield made


def texts(count: int, seed: int = 0) -> pd.DataFrame:
    """Texts long enough for a corpus, of two domains, each of a parent of its own."""
    rng = np.random.default_rng(seed)
    words = WORDS.split()
    rows = [
        {
            "text": "\n".join(" ".join(rng.choice(words, 9)) + "." for _ in range(10)),
            "domain": ("tea", "sea")[number % 2],
            "id": f"doc{number}",
            "parent": f"p{number}",
        }
        for number in range(count)
    ]
    return pd.DataFrame(rows)


def lines(table: pd.DataFrame) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table.to_dict("records")).encode()


def parquet(place: Playground, table: pd.DataFrame, name: str = "documents.parquet") -> Path:
    table.to_parquet(place.given / name, index=False)
    return place.given / name


def record(place: Playground, model: Path, documents: Path, name: str = "trace") -> int:
    options = ("--model", model, "--documents", documents, "--out", place.out / name)
    return place.run(main, "record", *options, "--max-tokens", 32, leaves=True)


def build(place: Playground, content: bytes, name: str = "own.jsonl") -> tuple[int, str]:
    (place.given / name).write_bytes(content)
    options = ("--documents", place.given / name, "--out", place.out / "corpus")
    code = place.run(data_main, "build", *options, "--vocab-size", 300, "--heldout-fraction", 0.3)
    return code, place.said


@pytest.fixture
def model(tiny_assets: Path) -> Path:
    return tiny_assets / "checkpoints" / "emo-nano"


def test_a_trace_in_a_folder_named_like_a_column_keeps_its_columns(tiny_assets, place):
    trace = place.copy(tiny_assets / "traces" / "emo-nano")
    (place.given / "domain=tea").mkdir()
    moved = trace.rename(place.given / "domain=tea" / "trace")
    query = "select count(distinct domain) as n, min(domain) as lowest from documents"
    assert Trace.open(moved).query(query).to_dict("records") == [{"n": 4, "lowest": "court"}]


@pytest.fixture
def chosen(place, model) -> dict:
    """What the command writes of five experts of each layer."""
    options = ("--model", model, "--documents", parquet(place, texts(2), "chosen.parquet"))
    assert place.run(main, "subset", *options, "--keep", 5, "--out", place.out / "s.json") == 0
    written: dict = json.loads((place.out / "s.json").read_text())
    (place.out / "s.json").unlink()
    return written


def cut(place: Playground, model: Path, subset: bytes) -> int:
    (place.given / "subset.json").write_bytes(subset)
    options = ("--model", model, "--subset", place.given / "subset.json")
    return place.run(main, "cut", *options, "--out", place.out / "cut")


def test_a_subset_of_uneven_layers_is_cut_and_recorded(place, model, chosen):
    """The second layer keeps more experts than the first; both keep the shared one."""
    uneven = chosen | {"experts": [[0, 1, 2, 15], [0, 1, 2, 3, 4, 5, 6, 15]], "budget": 8}
    assert cut(place, model, json.dumps(uneven).encode()) == 0
    assert record(place, place.out / "cut", parquet(place, texts(3))) == 0
    usage = np.nan_to_num(Trace.open(place.out / "trace").usage.astype(float))
    assert np.allclose(usage.sum(-1), 1, atol=1e-2)


def test_a_subset_with_a_byte_order_mark_is_cut(place, model, chosen):
    assert cut(place, model, BOM + json.dumps(chosen).encode()) == 0


@pytest.mark.parametrize("domain", ["\\ud83d", "half \\ud83d of it"])
def test_half_a_character_in_a_domain_is_named_with_its_line(place, domain):
    content = lines(texts(12)).splitlines(keepends=True)
    content[3] = content[3].replace(b'"sea"', f'"{domain}"'.encode())
    code, said = build(place, b"".join(content))
    assert code == 2 and "line 4" in said


def test_a_number_too_long_to_read_is_named_with_its_line(place):
    content = lines(texts(12)) + b'{"text": ' + b"9" * 5000 + b"}\n"
    code, said = build(place, content)
    assert code == 2 and "line 13" in said


def test_a_byte_order_mark_is_no_part_of_the_first_line(place):
    code, _ = build(place, BOM + lines(texts(12)))
    assert code == 0
    built = pd.read_parquet(place.out / "corpus" / "documents.parquet")
    assert len(built) == 12


def test_a_corrupt_table_is_named_and_not_the_output(place):
    path = parquet(place, texts(200))
    content = bytearray(path.read_bytes())
    content[40:400] = bytes(360)  # the first column's data; the footer still tells of all rows
    code, said = build(place, bytes(content), "corrupt.parquet")
    assert code == 2 and "corrupt.parquet" in said and str(place.out) not in said


def test_ids_that_are_numbers_are_clustered_or_refused_before_the_work(place, model):
    documents = parquet(place, texts(6).assign(id=range(6)))
    options = ("--model", model, "--documents", documents, "--out", place.out / "c.npz")
    code = place.run(main, "clusters", *options, "--clusters", 3, "--max-tokens", 16)
    assert (code == 0) == (place.out / "c.npz").exists()
    assert code == 0 or "Recording" not in place.output


def test_domains_that_are_numbers_can_be_chosen_or_are_refused(place, model):
    documents = parquet(place, texts(6).assign(domain=[0, 1] * 3))
    options = ("--model", model, "--documents", documents, "--out", place.out / "s.json")
    code = place.run(main, "subset", *options, "--domain", "1", "--keep", 5, "--max-tokens", 16)
    if code == 0:
        chosen = json.loads((place.out / "s.json").read_text())["calibration"]
        assert chosen == ["doc1", "doc3", "doc5"]


def test_parts_in_words_are_recorded_or_named(place, model):
    documents = parquet(place, texts(3).assign(part="one"))
    if record(place, model, documents) == 2:
        assert "part" in place.said


def test_three_documents_are_too_few_for_a_map(tiny_assets, place, monkeypatch):
    """UMAP places four at the least; with three, it fails in the words of another library."""

    def too_few(*_):
        raise TypeError("Cannot use scipy.linalg.eigh for sparse A with k >= N")

    monkeypatch.setattr("emo_viz.analysis.projection.umap_map", too_few)
    documents = parquet(place, texts(3))
    for name in ("emo-nano", "std-nano"):
        assert record(place, tiny_assets / "checkpoints" / name, documents, name) == 0
        (place.out / name).rename(place.given / name)
    traces = (place.given / "emo-nano", place.given / "std-nano")
    options = ("--traces", *traces, "--out", place.out / "maps.npz", "--neighbours", 2)
    assert place.run(main, "map", *options) == 2
