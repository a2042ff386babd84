"""The trace on disk: size, bounded memory, damage, and questions in SQL; no model involved."""

import errno
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
        "import sys; LIGHT = {'model.fields', 'model.files', 'model.registration'};"
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


def test_folders_called_key_value_say_nothing_of_the_tables(write):
    names = ("domain=tea", "document=3", "plain")
    traces = [Trace.open(write([5, 9], name=f"{name}/trace")) for name in names]
    for trace in traces:
        assert trace.query("from documents")["domain"].tolist() == ["a", "b"]
        assert trace.documents["domain"].tolist() == ["a", "b"]
        assert trace.tokens(1)["document"].tolist() == [1] * 9
        assert list(trace.query("from tokens")) == list(traces[-1].query("from tokens"))


@pytest.mark.parametrize("name", ["a*", "a?", "[a]", "**", "{a,b}"])
def test_a_path_is_no_pattern_of_other_traces(write, name):
    """With others beside it, which the pattern would find as well."""
    for other in ("a", "ab", "ac", "b"):
        write([3] * 4, name=f"{other}/trace")
    trace = Trace.open(write([5, 9], name=f"{name}/trace"))
    assert trace.query("select count(*) as n from documents")["n"].item() == 2
    assert trace.query("select count(*) as n from routing")["n"].item() == 14 * 2 * 3


def test_a_folder_with_a_name_that_is_not_utf_8(write):
    trace = Trace.open(write([5, 9], name="t\udcff"))
    assert len(trace.documents) == 2 and len(trace.tokens(1)) == 9
    with pytest.raises(ValueError, match="The query failed"):
        trace.query("from documents")


# Layers with different numbers of experts

UNEVEN = (
    4,
    10,
    1,
    4,
    (10, 3, 0, 6),
)  # 9, 2, 0 and 5 routed experts, of which 3, 2, 0 and 3 a token


@pytest.fixture
def uneven(write):
    return Trace.open(write([5, 9], geometry=UNEVEN))


def test_an_uneven_model_is_described_in_the_manifest(uneven):
    model = uneven.manifest.model
    assert model.num_experts_per_layer == (10, 3, 0, 6) and model.slots == (3, 2, 0, 3)
    fields = json.loads((uneven.path / "manifest.json").read_text())
    assert fields["format_version"] == 2
    assert uneven.usage.shape == uneven.activation.shape == (2, 4, 9)
    for array, sums in ((uneven.usage, (1, 1, 0, 1)), (uneven.activation, model.slots)):
        for layer in range(4):
            assert (array[:, layer, model.routed_in_layer(layer) :] == 0).all()
        np.testing.assert_allclose(np.float32(array).sum(-1), [sums] * 2, rtol=2e-3)


def test_sql_over_uneven_layers_agrees_with_the_arrays(uneven):
    shares = uneven.query("""
        select document, layer, expert, count(*) / any_value(n_tokens) as share
        from routing join documents using (document)
        where position > 0 group by document, layer, expert
    """)
    activation = np.zeros_like(uneven.activation)
    activation[shares["document"], shares["layer"], shares["expert"]] = shares["share"]
    np.testing.assert_array_equal(activation, uneven.activation)


def test_ranks_of_uneven_layers_are_by_gate_weight(uneven):
    rows = uneven.query("from routing where document = 1 order by position, layer, rank")
    counts = rows.groupby(["position", "layer"])["rank"].agg(list)
    expected = {0: [0, 1, 2], 1: [0, 1], 3: [0, 1, 2]}
    assert all(ranks == expected[layer] for (_, layer), ranks in counts.items())
    assert (rows.groupby(["position", "layer"])["gate_weight"].diff().dropna() <= 0).all()
    assert rows["expert"].tolist() == np.concatenate(uneven.tokens(1)["expert_ids"]).tolist()


def test_a_uniform_model_is_described_as_it_always_was(trace):
    fields = json.loads((trace.path / "manifest.json").read_text())
    assert fields["format_version"] == 1
    assert list(fields["model"]) == [
        "name",
        "objective",
        "num_layers",
        "num_experts",
        "num_shared_experts",
        "num_experts_per_tok",
        "checkpoint_sha256",
    ]


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


def edit_model(folder: Path, **changes: object) -> None:
    model = json.loads((folder / "manifest.json").read_text())["model"]
    edit_manifest(folder, model=model | changes)


def damage_pages(path: Path) -> None:
    """Leave the footer, which is all that is read of a table when a trace is checked."""
    content = bytearray(path.read_bytes())
    content[4:100] = b"\xff" * 96
    path.write_bytes(content)


def lead_outside(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def truncated_json(folder: Path) -> None:
    cut_short(folder / "manifest.json")


DAMAGE = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is unfinished"),
    "truncated manifest": (truncated_json, "does not describe a trace"),
    "another format": (lambda f: edit_manifest(f, format="else"), "does not describe a trace"),
    "another version": (
        lambda f: edit_manifest(f, format_version=4),
        "version 4 .* versions 1 to 3; use the program that wrote it",
    ),
    "no model": (lambda f: edit_manifest(f, model={}), "manifest.json is damaged"),
    "unknown level": (lambda f: edit_manifest(f, level="words"), "unknown level 'words'"),
    "no files": (lambda f: edit_manifest(f, files=[]), "documents-00000.parquet is not listed"),
    "a file without a name": (
        lambda f: edit_manifest(f, files=[{"name": None, "bytes": 1, "rows": 1}]),
        "manifest.json is damaged",
    ),
    "a file elsewhere": (
        lambda f: edit_manifest(f, files=[{"name": "../usage.npy", "bytes": 1, "rows": 1}]),
        "manifest.json is damaged",
    ),
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
    "damaged pages": (
        lambda f: damage_pages(f / "documents-00000.parquet"),
        "documents-00000.parquet is not readable",
    ),
    "table outside": (
        lambda f: lead_outside(f / "documents-00000.parquet"),
        "outside of itself .'documents-00000.parquet'",
    ),
    "array outside": (lambda f: lead_outside(f / "usage.npy"), "outside of itself .'usage.npy'"),
    "manifest outside": (lambda f: lead_outside(f / "manifest.json"), "outside of itself"),
    "other layers": (lambda f: edit_model(f, num_layers=3), "usage.npy holds .*2, 9., not"),
    "layers in words": (lambda f: edit_model(f, num_layers="2"), "manifest.json is damaged"),
    "no routed experts": (lambda f: edit_model(f, num_experts=1), "manifest.json is damaged"),
    "uneven": (lambda f: edit_model(f, num_experts_per_layer=[3]), "manifest.json is damaged"),
    "half a document": (lambda f: edit_manifest(f, documents=3.5), "manifest.json is damaged"),
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


def test_a_trace_with_other_files_in_its_folder_is_not_replaced(trace, write):
    (trace.path / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds more than a trace .notes.txt"):
        write([3])
    assert (trace.path / "notes.txt").read_text() == "precious"
    assert Trace.open(trace.path).manifest == trace.manifest


def test_what_comes_into_the_folder_meanwhile_is_not_lost(trace, write):
    def put(_: TraceWriter) -> None:
        (trace.path / "notes.txt").write_text("precious")

    with pytest.raises(ValueError, match="holds more than a trace"):
        write([3], each=put)
    assert (trace.path / "notes.txt").read_text() == "precious"
    assert [path.name for path in trace.path.parent.iterdir()] == ["trace"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(trace, write, tmp_path):
    (tmp_path / "link").symlink_to(trace.path)
    assert Trace.open(write([3], name="link")).manifest.documents == 1
    assert not (tmp_path / "link").is_symlink()
    assert Trace.open(trace.path).manifest == trace.manifest


def test_a_full_disk_leaves_the_old_trace(trace, write, monkeypatch, tmp_path):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("emo_viz.trace.writer._GrowingArray.append", full)
    monkeypatch.setattr("emo_viz.trace.writer._GrowingArray.close", full)
    with pytest.raises(ValueError, match="trace cannot be written .No space left"):
        write([3])
    assert Trace.open(trace.path).manifest == trace.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


def test_a_disk_that_is_full_at_the_end_leaves_the_old_trace(trace, write, monkeypatch, tmp_path):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("emo_viz.trace.writer._GrowingArray.close", full)
    with pytest.raises(ValueError, match="trace cannot be written .No space left"):
        write([3])
    assert Trace.open(trace.path).manifest == trace.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


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
