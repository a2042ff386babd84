"""Token clusters: planted ones are found, measured, stored and found again in a recording."""

import json

import numpy as np
import pytest

from emo_viz.analysis.tokens import (
    TokenTable,
    fit_token_clusters,
    headline,
    load_token_clusters,
    save_token_clusters,
    token_rows,
)

LAYERS, ROUTED, PER_DOCUMENT = 2, 6, 25
DOMAINS = [name for name in ("sea", "law", "bread") for _ in range(8)]


def planted_table(by_domain):
    """Tokens whose three ways of routing follow the document's domain, or else the token id."""
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(len(DOMAINS)), PER_DOCUMENT)
    token_ids = rng.integers(9, size=len(documents))
    ways = (documents // 8 if by_domain else token_ids % 3).astype(int)
    rows = rng.dirichlet(np.ones(ROUTED), size=(3, LAYERS))[ways]
    rows = rows + 0.01 * rng.random(rows.shape)
    texts = {i: f" t{i}" for i in range(9)}
    ids = [f"doc-{i}" for i in range(len(DOMAINS))]
    flat = rows.reshape(len(rows), -1).astype(np.float16)
    return TokenTable(flat, token_ids, documents, ids, DOMAINS, texts), ways


@pytest.fixture(scope="module")
def by_domain():
    return fit_token_clusters(planted_table(True)[0], "a", {"model": "a"}, k=3, n=100)


@pytest.fixture(scope="module")
def by_token():
    return fit_token_clusters(planted_table(False)[0], "b", {"model": "b"}, k=3, n=100)


def test_clusters_that_follow_the_domain(by_domain):
    assert by_domain.agreements["domain"].nmi.mean == pytest.approx(1.0)
    assert by_domain.agreements["token"].nmi.mean < 0.1
    assert by_domain.modal_share.mean == 1.0
    assert (by_domain.documents, by_domain.tokens) == (24, 24 * PER_DOCUMENT)
    assert by_domain.shares == pytest.approx([1 / 3] * 3)
    assert sorted(label.split(" ·")[0] for label in by_domain.labels) == [
        "bread 100 %",
        "law 100 %",
        "sea 100 %",
    ]


def test_clusters_that_follow_the_token(by_token):
    domain, token = by_token.agreements["domain"], by_token.agreements["token"]
    assert domain.nmi.mean == pytest.approx(domain.chance, abs=0.01)
    assert token.nmi.mean == pytest.approx(2 * np.log(3) / (np.log(3) + np.log(9)), abs=0.01)
    assert token.nmi.low > 10 * token.chance
    names = {frozenset(label.split("· ")[1].split(" ")) for label in by_token.labels}
    assert names == {frozenset(f"t{i}" for i in range(9) if i % 3 == way) for way in range(3)}
    assert by_token.modal_share.mean < 0.7


def test_a_recording_finds_its_clusters_again(by_domain):
    table, ways = planted_table(True)
    probs = table.rows.reshape(-1, LAYERS, ROUTED).swapaxes(0, 1).astype(np.float32)
    found = by_domain.assign(probs)
    assert len(set(zip(found.tolist(), ways.tolist(), strict=True))) == 3
    assert by_domain.assign(probs[:, :0]).shape == (0,)


def test_a_recording_of_another_shape_is_refused(by_domain):
    with pytest.raises(ValueError, match="another shape"):
        by_domain.assign(np.ones((LAYERS, 4, ROUTED + 1), np.float32))


def test_rows_go_layer_by_layer():
    probs = np.arange(12).reshape(2, 3, 2)
    assert token_rows(probs).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_stored_clusters_come_back(tmp_path, by_domain):
    path = tmp_path / "clusters.npz"
    save_token_clusters(path, by_domain)
    read = load_token_clusters(path)
    assert read.labels == by_domain.labels and read.agreements == by_domain.agreements
    assert read.modal_share == by_domain.modal_share and read.info == by_domain.info
    probs = np.random.default_rng(0).dirichlet(np.ones(ROUTED), (LAYERS, 40)).astype(np.float32)
    assert (read.assign(probs) == by_domain.assign(probs)).all()


def test_headline_compares_the_two_models(tmp_path, by_domain, by_token):
    paths = tmp_path / "a.npz", tmp_path / "b.npz"
    for path, clusters in zip(paths, (by_domain, by_token), strict=True):
        save_token_clusters(path, clusters)
    line = headline(*paths)
    one, other = line.runs["a"], line.runs["b"]
    assert one.domain == by_domain.agreements["domain"].nmi
    assert line.ratio.mean == pytest.approx(one.domain.mean / other.domain.mean)
    assert line.difference.mean == pytest.approx(one.domain.mean - other.domain.mean)
    assert line.difference.low < line.difference.mean < line.difference.high
    assert line.ratio.low < line.ratio.mean < line.ratio.high
    assert (line.documents, one.tokens, one.clusters) == (24, 600, 3)
    assert one.token == by_domain.agreements["token"].nmi
    assert other.chance == by_token.agreements["domain"].chance


def test_headline_of_one_run_alone_compares_nothing(tmp_path, by_domain):
    save_token_clusters(tmp_path / "a.npz", by_domain)
    line = headline(tmp_path / "a.npz")
    assert list(line.runs) == ["a"] and line.difference is None and line.ratio is None
    with pytest.raises(ValueError, match="both|Both files of token clusters are of the run a"):
        headline(tmp_path / "a.npz", tmp_path / "a.npz")


def test_version_1_names_the_run_by_its_model(tmp_path, by_domain):
    path = tmp_path / "clusters.npz"
    save_token_clusters(path, by_domain)
    with np.load(path) as file:
        arrays = dict(file)
    info = json.loads(str(arrays.pop("info")))
    del info["run"]
    np.savez(path, info=np.array(json.dumps(info | {"format_version": 1})), **arrays)
    assert load_token_clusters(path).run == "a"


def test_headline_refuses_clusters_of_different_documents(tmp_path, by_domain):
    table, _ = planted_table(False)
    other = TokenTable(**(vars(table) | {"ids": [f"x-{i}" for i in range(len(DOMAINS))]}))
    paths = tmp_path / "a.npz", tmp_path / "b.npz"
    save_token_clusters(paths[0], by_domain)
    save_token_clusters(paths[1], fit_token_clusters(other, "b", {}, k=3, n=100))
    with pytest.raises(ValueError, match="different documents"):
        headline(*paths)
