"""EMO's clustering folders and OLMoE's windows."""

import gzip
import json
import shutil

import numpy as np
import pytest

from emo_viz.trace.importers import read_routing


def told(routing, part: str) -> bool:
    return any(part in note for note in routing.notes)


def test_a_folder_gives_logits_documents_and_domains(write, example):
    routing = read_routing(write("emo"))
    assert routing.num_experts == (8, 8, 8)
    assert routing.model == "models/emo-hf"
    assert [document.domain for document in routing.documents] == ["dclm", "wiki"]
    logits = np.concatenate([document.router_logits for document in routing.documents])
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, example.logits.astype(np.float32))
    assert told(routing, "the 2 largest of each token were taken as its experts")


@pytest.mark.parametrize("name", ["embeddings_logits.npy", "embeddings_probs.npy"])
def test_probabilities_where_logits_were_expected_are_told(write, example, name):
    folder = write("emo")
    shares = np.exp(example.logits.astype(np.float32))
    shares = (shares / shares.sum(axis=2, keepdims=True)).astype(np.float16)
    (folder / "embeddings_logits.npy").unlink()
    np.save(folder / name, shares.reshape(20, -1))
    routing = read_routing(folder)
    assert told(routing, f"{name} holds probabilities (its rows sum to 1)")
    logits = np.concatenate([document.router_logits for document in routing.documents])
    again = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(again, shares, atol=2e-3)


def test_a_folder_without_boundaries_is_one_document_and_needs_its_geometry(write):
    folder = write("emo")
    for name in ("doc_boundaries.npy", "metadata_docs.jsonl.gz", "info.json", "documents.npy"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match="no num_layers in info.json; name num_layers"):
        read_routing(folder)
    routing = read_routing(folder, num_layers=3, num_experts=8, top_k=2)
    assert [len(document.expert_ids) for document in routing.documents] == [20]
    assert routing.documents[0].token_ids is None


def test_logits_that_are_not_numbers_give_no_experts(write, example):
    folder = write("emo")
    logits = example.logits.copy()
    logits[5, 1, 3] = np.nan
    np.save(folder / "embeddings_logits.npy", logits.reshape(20, -1))
    routing = read_routing(folder)
    assert (routing.documents[0].expert_ids[5, 1] == -1).all()
    assert told(routing, "1 place with router logits that are not finite")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("embeddings_logits.npy", np.zeros((20, 23), np.float16), "3 layers x 8 experts"),
        ("embeddings_logits.npy", np.zeros((20, 24), np.int16), "of floats is expected"),
        ("documents.npy", np.arange(19), "documents.npy holds int64 of shape .* 20 ids are"),
        ("doc_boundaries.npy", np.array([0, 12, 21]), "does not divide the folder's 20 tokens"),
        ("doc_boundaries.npy", np.array([0, 30, 20]), "does not divide the folder's 20 tokens"),
        ("doc_boundaries.npy", np.array([0, 5, 12, 20]), "does not describe the folder's 3 doc"),
        ("info.json", {"num_layers": -1}, "num_layers = '-1'; 0 to"),
        ("info.json", {"routed_top_k": 9}, "says that 9 of 8 experts are used"),
    ],
)
def test_parts_of_a_folder_that_do_not_fit_are_named(write, name, content, expected):
    folder = write("emo")
    if isinstance(content, dict):
        content = json.loads((folder / name).read_text()) | content
        (folder / name).write_text(json.dumps(content))
    else:
        np.save(folder / name, content)
    with pytest.raises(ValueError, match=expected):
        read_routing(folder)


def test_a_cut_archive_of_metadata_is_named(write):
    folder = write("emo")
    file = folder / "metadata_docs.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="metadata_docs.jsonl.gz is a damaged gzip file"):
        read_routing(folder)


@pytest.fixture
def cluster_run(write):
    """A run of cluster.py inside the example's folder."""
    folder = write("emo") / "probs_mean_pca_l2_spherical_kmeans_k4"
    folder.mkdir()
    np.save(folder / "assignments.npy", np.arange(20) % 4)
    (folder / "run_info.json").write_text("{}")
    (folder / "cluster_labels.json").write_text('{"0": {"label": "News", "category": "x"}}')
    return folder


def test_a_cluster_run_comes_with_the_routing_that_it_was_made_from(cluster_run):
    routing = read_routing(cluster_run)
    assert routing.clusters.of == "tokens"
    assert routing.clusters.labels == {0: "News"}
    assert routing.clusters.assignments.tolist()[:5] == [0, 1, 2, 3, 0]
    assert sum(len(document.expert_ids) for document in routing.documents) == 20
    np.save(cluster_run / "assignments.npy", np.array([0, 1]))
    assert read_routing(cluster_run).clusters.of == "documents"


def test_a_cluster_run_that_does_not_fit_or_stands_alone_is_refused(cluster_run, tmp_path):
    np.save(cluster_run / "assignments.npy", np.arange(7))
    with pytest.raises(ValueError, match="assigns 7 clusters; the folder above has 20 tokens"):
        read_routing(cluster_run)
    alone = tmp_path / "elsewhere" / "run"
    shutil.copytree(cluster_run, alone)
    with pytest.raises(ValueError, match="clusters without their routing"):
        read_routing(alone)


def test_windows_of_olmoe_say_what_they_are(write):
    routing = read_routing(write("olmoe"))
    assert told(routing, "Texts were joined and cut into windows")


def test_a_window_with_more_tokens_than_rows_is_refused(write, tmp_path):
    record = json.loads(write("olmoe").read_text())
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps(record | {"input_ids": [1, 2]}))
    with pytest.raises(ValueError, match="holds 2 token ids for 20 tokens"):
        read_routing(path)
    path.write_text(json.dumps({"input_ids": [1], "exp_ids": [[1, 2], [3]]}))
    with pytest.raises(ValueError, match="ragged in exp_ids of line 1"):
        read_routing(path)


def test_metadata_longer_than_the_folder_is_not_read_to_its_end(write):
    folder = write("emo")
    with gzip.open(folder / "metadata_docs.jsonl.gz", "wt") as file:
        file.write('{"source": "a"}\n' * 50 + "broken")
    with pytest.raises(ValueError, match="does not describe the folder's 2 documents"):
        read_routing(folder)
