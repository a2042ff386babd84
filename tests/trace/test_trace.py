"""The trace on disk: size, bounded memory, damage, and questions in SQL; no model involved."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from emo_viz.trace import Trace
from emo_viz.trace.writer import TraceWriter

BYTES_A_TOKEN = 512
SMALL = (2, 10, 1, 4)  # layers, experts, shared, top-k


@pytest.fixture
def write(synthetic, tmp_path):
    """Write a trace of synthetic documents of the given numbers of tokens (EOS included)."""
    traced_model, recording = synthetic

    def run(lengths, name="trace", level="tokens", geometry=SMALL, each=lambda writer: None):
        rng = np.random.default_rng(0)
        model = traced_model(*geometry)
        with TraceWriter(tmp_path / name, model, level, row_group_tokens=100) as writer:
            for number, tokens in enumerate(lengths):
                document = {"id": f"d{number}", "domain": "ab"[number % 2], "text": "x" * tokens}
                texts = ["", *(f" t{n % 50}" for n in range(tokens - 1))]
                writer.add(document, texts, recording(model, tokens, rng))
                each(writer)
        return tmp_path / name

    return run


@pytest.fixture
def trace(write) -> Trace:
    return Trace.open(write([5, 9, 3, 7]))


def test_bytes_a_token_at_the_1b14b_geometry(write):
    folder = write([256] * 16, geometry=(16, 128, 0, 8))
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size / (16 * 255) <= BYTES_A_TOKEN


def test_memory_is_bounded_by_the_row_group(write):
    held = []

    def look(writer: TraceWriter) -> None:
        held.append(sum(batch.num_rows for batch in writer._tokens))
        assert held[-1] == writer.buffered_tokens

    folder = write([30, 60, 40, 150, 20, 90, 10], each=look)
    # 150: one document that is longer than a row group of 100.
    assert held == [30, 90, 40, 150, 20, 90, 100]
    file = pq.ParquetFile(folder / "tokens-00000.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [90, 40, 150, 20, 100]


def test_documents_are_written_in_groups_too(write, monkeypatch):
    monkeypatch.setattr("emo_viz.trace.writer.ROW_GROUP_DOCUMENTS", 3)
    held = []
    folder = write([4] * 7, each=lambda writer: held.append(len(writer._documents)))
    assert held == [1, 2, 0, 1, 2, 0, 1]
    assert Trace.open(folder).documents["document"].tolist() == list(range(7))


def test_a_trace_of_documents_buffers_no_tokens(write):
    held = []
    folder = write(
        [30, 60], level="documents", each=lambda writer: held.append(writer.buffered_tokens)
    )
    assert held == [0, 0]
    trace = Trace.open(folder)
    assert not trace.has_tokens
    with pytest.raises(ValueError, match="--level tokens"):
        trace.tokens(0)
    with pytest.raises(ValueError, match="tokens"):
        trace.query("select * from tokens")


def test_many_experts_fit_their_column(write):
    trace = Trace.open(write([3] * 4, geometry=(1, 300, 0, 2)))
    ids = np.stack(trace.tokens(0)["expert_ids"])
    assert ids.dtype == np.int16
    assert trace.query("select max(expert) as e from routing")["e"].item() > 255


@pytest.mark.parametrize("document", [-1, 4])
def test_tokens_of_a_document_that_is_not_there(trace, document):
    with pytest.raises(ValueError, match=f"no document {document} .* 0 to 3"):
        trace.tokens(document)


def test_arrays_are_read_only_and_the_table_is_a_copy(trace):
    for array in (trace.usage, trace.activation):
        assert array.dtype == np.float16
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1
    table = trace.documents
    table["domain"] = "changed"
    table.loc[0, "id"] = "changed"
    assert trace.documents["domain"].tolist() == ["a", "b", "a", "b"]
    assert trace.documents["id"].iloc[0] == "d0"


def test_reading_needs_no_model(trace):
    code = (
        "import sys; LIGHT = {'model.files', 'model.registration'};"
        "from emo_viz.trace import Trace; t = Trace.open(sys.argv[1]);"
        "t.tokens(0); t.query('select * from routing');"
        "print(*{'torch', 'transformers', 'tokenizers'} & set(sys.modules),"
        "*{name for name in sys.modules if name.startswith('model.')} - LIGHT)"
    )
    command = [sys.executable, "-c", code, str(trace.path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.stderr) == ("\n", "")


# SQL


def test_sql_over_routing_agrees_with_the_arrays(trace):
    shares = trace.query("""
        select document, layer, expert, count(*) / any_value(n_tokens) as share
        from routing join documents using (document)
        where position > 0
        group by document, layer, expert
    """)
    activation = np.zeros_like(trace.activation)
    activation[shares["document"], shares["layer"], shares["expert"]] = shares["share"]
    np.testing.assert_array_equal(activation, trace.activation)


def test_sql_routing_is_the_lists_of_the_tokens(trace):
    rows = trace.query("from routing where document = ? order by position, layer, rank", [1])
    tokens = trace.tokens(1)
    assert rows["expert"].tolist() == np.concatenate(tokens["expert_ids"]).tolist()
    weights = np.concatenate(tokens["gate_weights"])
    np.testing.assert_array_equal(rows["gate_weight"].to_numpy(), weights.astype(np.float32))
    assert (rows.groupby(["position", "layer"])["gate_weight"].diff().dropna() <= 0).all()


def test_sql_averages_leave_out_the_eos(trace):
    losses = trace.query("select avg(loss) as nats from tokens group by document order by document")
    np.testing.assert_allclose(losses["nats"], trace.documents["mean_loss"], rtol=1e-6)


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("drop view tokens", "one SELECT"),
        ("select 1; select 2", "one SELECT"),
        ("", "one SELECT"),
        ("copy (select 1) to 'stolen.csv'", "one SELECT"),
        ("set enable_external_access = true", "one SELECT"),
        ("select * from read_text('{file}')", "query failed"),
        ("select * from '{file}'", "query failed"),
        ("selec 1", "query failed"),
        ("select nothing from documents", "query failed"),
    ],
)
def test_sql_can_only_select_from_the_trace(trace, tmp_path, sql, sentence):
    file = tmp_path / "secret.csv"
    file.write_text("secret\n1\n")
    with pytest.raises(ValueError, match=sentence) as caught:
        trace.query(sql.format(file=file))
    assert "\n" not in str(caught.value)


def test_sql_in_a_folder_with_an_odd_name(write):
    trace = Trace.open(write([5, 9], name="it's a [b]*? 100%"))
    assert trace.query("select count(*) as n from tokens")["n"].item() == 14


# Damage


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def overwrite(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def fewer_rows(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 4', '"rows": 5', 1))


def truncated_json(folder: Path) -> None:
    cut_short(folder / "manifest.json")


DAMAGE = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is unfinished"),
    "truncated manifest": (truncated_json, "does not describe a trace"),
    "another format": (lambda f: edit_manifest(f, format="else"), "does not describe a trace"),
    "another version": (
        lambda f: edit_manifest(f, format_version=3),
        "version 3 .* versions 1 and 2",
    ),
    "no model": (lambda f: edit_manifest(f, model={}), "manifest.json is damaged"),
    "unknown level": (lambda f: edit_manifest(f, level="words"), "unknown level 'words'"),
    "no files": (lambda f: edit_manifest(f, files=[]), "documents-00000.parquet is not listed"),
    "missing usage": (lambda f: (f / "usage.npy").unlink(), "usage.npy is missing"),
    "missing tokens": (
        lambda f: (f / "tokens-00000.parquet").unlink(),
        "tokens-00000.parquet is missing",
    ),
    "truncated tokens": (
        lambda f: cut_short(f / "tokens-00000.parquet"),
        "tokens-00000.parquet has .* bytes instead of",
    ),
    "truncated activation": (
        lambda f: cut_short(f / "activation.npy"),
        "activation.npy has .* bytes instead of",
    ),
    "overwritten documents": (
        lambda f: overwrite(f / "documents-00000.parquet"),
        "documents-00000.parquet is not readable",
    ),
    "overwritten usage": (lambda f: overwrite(f / "usage.npy"), "usage.npy is not readable"),
    "fewer rows": (fewer_rows, "has 4 rows instead of 5"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_trace_is_named_in_one_sentence(trace, damage, sentence):
    damage(trace.path)
    with pytest.raises(ValueError, match=sentence) as caught:
        Trace.open(trace.path)
    assert str(trace.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_trace_at_all(tmp_path):
    with pytest.raises(ValueError, match="There is no trace at"):
        Trace.open(tmp_path / "nowhere")


# Writing


def test_the_manifest_lists_every_file(trace):
    listed = {file.name: (file.bytes, file.rows) for file in trace.manifest.files}
    there = {p.name: p.stat().st_size for p in trace.path.iterdir() if p.name != "manifest.json"}
    assert {name: size for name, (size, _) in listed.items()} == there
    assert {rows for _, rows in listed.values()} == {4, 5 + 9 + 3 + 7}


def test_there_is_no_manifest_and_no_folder_before_the_end(write, tmp_path):
    seen = []

    def look(_: TraceWriter) -> None:
        seen.extend([*tmp_path.rglob("manifest.json"), *tmp_path.glob("trace")])

    assert write([5, 9], each=look).is_dir()
    assert seen == []


def test_a_failed_rename_brings_the_old_trace_back(write, monkeypatch, tmp_path):
    old = Trace.open(write([5, 9])).manifest
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target == tmp_path / "trace" and self.name != "old":
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no space"):
        write([3])
    assert Trace.open(tmp_path / "trace").manifest == old
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


def test_a_trace_of_another_version_may_be_replaced(trace, write):
    edit_manifest(trace.path, format_version=0)
    assert Trace.open(write([3])).manifest.documents == 1


@pytest.mark.parametrize("name", ["manifest.json", "thesis.txt"])
def test_what_is_no_trace_is_never_replaced(write, tmp_path, name):
    precious = tmp_path / "trace" / name
    precious.parent.mkdir()
    precious.write_text('{"precious": 1}')
    with pytest.raises(ValueError, match="exists and is not a trace"):
        write([3])
    assert precious.read_text() == '{"precious": 1}'


def test_a_file_is_never_replaced(write, tmp_path):
    (tmp_path / "trace").write_text("precious")
    with pytest.raises(ValueError, match="exists and is not a trace"):
        write([3])


def test_a_trace_is_as_readable_as_its_surroundings(trace, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    assert trace.path.stat().st_mode == beside.stat().st_mode
