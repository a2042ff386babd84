"""The token map: which tokens are sampled, where their text is, what is stored."""

from collections import Counter

import numpy as np
import pytest

from emo_viz.analysis.arrays import save_arrays
from emo_viz.analysis.token_map import (
    lay_out,
    load_token_map,
    map_key,
    sample_tokens,
    save_token_map,
)
from emo_viz.analysis.tokens import TokenTable, fit_token_clusters

RUNS = ("emo-nano", "std-nano")
DOMAINS = ["sea", "law", "sea"]
PIECES = [["the", " tide", "", " rose"], ["a", " court"], [" rope"] * 30]
IDS = [np.arange(len(each)) + 10 * i for i, each in enumerate(PIECES)]


def sample(per_domain=4, seed=0):
    return sample_tokens(DOMAINS, IDS, PIECES, per_domain, seed)


def test_every_domain_has_as_many_tokens_as_it_can():
    found = sample(per_domain=4)
    assert Counter(DOMAINS[i] for i in found.documents) == {"sea": 4, "law": 2}
    assert len(set(zip(found.documents, found.positions, strict=True))) == 6


def test_a_token_is_found_in_the_text_of_its_document():
    found = sample(per_domain=100)
    for i, document in enumerate(found.documents):
        position = found.positions[i]
        text = "".join(PIECES[document])
        assert text[found.starts[i] : found.ends[i]] == PIECES[document][position - 1]
        assert found.token_ids[i] == IDS[document][position - 1]


def test_the_seed_decides():
    assert (sample().positions == sample().positions).all()
    assert any((sample().positions != sample(seed=seed).positions).any() for seed in (1, 2, 3))


def test_every_token_of_a_domain_is_as_likely():
    drawn = Counter(i for seed in range(400) for i in sample(2, seed).documents if i != 1)
    assert drawn[2] / (drawn[0] + drawn[2]) == pytest.approx(30 / 34, abs=0.05)


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    found = sample(per_domain=100)
    routing = {name: rng.dirichlet(np.ones(5), (len(found.ends), 2)) for name in RUNS}
    rows = {name: own.reshape(len(own), -1) for name, own in routing.items()}
    documents = np.arange(len(found.ends)) % 3
    table = {"token_ids": documents, "documents": documents, "ids": list("abc")}
    clusters = {
        name: fit_token_clusters(
            TokenTable(each, **table, domains=DOMAINS, texts=dict(enumerate("xyz"))),
            name,
            {},
            k=3,
            n=10,
        )
        for name, each in rows.items()
    }
    keys = {name: map_key(["a"], ["text"], one) for name, one in clusters.items()}
    numbers = {name: (0, 3) for name in RUNS}
    flat = lay_out(found, routing, numbers, clusters, first_two, keys, {"seed": 0})
    return flat, clusters, routing


def first_two(rows):
    return rows[:, :2]


def test_the_second_map_is_turned_onto_the_first(made):
    places = made[0].places
    assert places["std-nano"].mean(axis=0) == pytest.approx(
        places["emo-nano"].mean(axis=0), abs=1e-5
    )


def test_a_stored_map_comes_back(made, tmp_path):
    token_map, _, routing = made
    save_token_map(tmp_path / "map.npz", token_map)
    read = load_token_map(tmp_path / "map.npz")
    assert read.keys == token_map.keys and read.info == {"seed": 0}
    for name, values in vars(token_map.sample).items():
        assert (getattr(read.sample, name) == values).all()
    for name in RUNS:
        assert (read.clusters[name] == token_map.clusters[name]).all()
        assert read.places[name] == pytest.approx(token_map.places[name])
        assert read.layer_places[name].shape == (2, len(token_map.sample.ends), 2)
        assert read.layer_places[name] == pytest.approx(token_map.layer_places[name])
        assert read.probabilities(name) == pytest.approx(routing[name], abs=0.006)
    assert read.numbers == {"emo-nano": (0, 3), "std-nano": (0, 3)}


def test_a_map_of_other_documents_or_clusters_is_told(made):
    token_map, clusters, _ = made
    swapped = dict(zip(clusters, reversed(clusters.values()), strict=True))
    assert token_map.is_of(["a"], ["text"], clusters)
    assert token_map.is_of(["a"], ["text"], {"std-nano": clusters["std-nano"]})
    assert not token_map.is_of(["b"], ["text"], clusters)
    assert not token_map.is_of(["a"], ["another"], clusters)
    assert not token_map.is_of(["a"], ["text"], swapped)
    assert not token_map.is_of(["a"], ["text"], {"other": clusters["std-nano"]})


def test_a_map_of_version_1_is_that_of_the_bundled_runs(made, tmp_path):
    token_map, clusters, _ = made
    arrays = {name: values.astype(np.int32) for name, values in vars(token_map.sample).items()}
    for role, run in zip(("emo", "standard"), RUNS, strict=True):
        arrays[f"{role}_places"] = token_map.places[run]
        arrays[f"{role}_clusters"] = token_map.clusters[run].astype(np.int16)
    key = map_key(["a"], ["text"], *clusters.values())
    info = {"format": "emo-viz-token-map", "format_version": 1, "key": key, "seed": 0}
    save_arrays(tmp_path / "map.npz", arrays, info)
    read = load_token_map(tmp_path / "map.npz")
    assert (read.clusters["std-nano"] == token_map.clusters["std-nano"]).all()
    assert read.is_of(["a"], ["text"], clusters) and not read.is_of(["b"], ["text"], clusters)


def test_one_run_alone_has_a_map(made, tmp_path):
    token_map, clusters, _ = made
    routing = np.random.default_rng(1).dirichlet(np.ones(5), (len(token_map.sample.ends), 2))
    one = {"std-nano": clusters["std-nano"]}
    keys, numbers = {"std-nano": "k"}, {"std-nano": (0, 1)}
    alone = lay_out(token_map.sample, {"std-nano": routing}, numbers, one, first_two, keys, {})
    save_token_map(tmp_path / "map.npz", alone)
    assert list(load_token_map(tmp_path / "map.npz").places) == ["std-nano"]


def test_a_layer_of_one_expert_puts_all_tokens_in_one_place(made):
    token_map, clusters, routing = made
    rows = routing["std-nano"].copy()
    rows[:, 0] = np.eye(5)[0]

    def unlike(rows):
        assert (rows != rows[:1]).any()
        return rows[:, :2]

    own = {"std-nano": clusters["std-nano"]}
    found = lay_out(
        token_map.sample,
        {"std-nano": rows},
        {"std-nano": (0, 1)},
        own,
        unlike,
        {"std-nano": ""},
        {},
    )
    assert (found.layer_places["std-nano"][0] == 0).all()
    assert (found.layer_places["std-nano"][1] != 0).any()


def test_a_map_of_version_2_has_no_routing(made, tmp_path):
    token_map, clusters, _ = made
    arrays = {name: values.astype(np.int32) for name, values in vars(token_map.sample).items()}
    for number, run in enumerate(RUNS):
        arrays[f"places_{number}"] = token_map.places[run]
        arrays[f"clusters_{number}"] = token_map.clusters[run].astype(np.int16)
    info = {"format": "emo-viz-token-map", "format_version": 2, "runs": list(RUNS)}
    save_arrays(tmp_path / "map.npz", arrays, info | {"keys": token_map.keys, "seed": 0})
    read = load_token_map(tmp_path / "map.npz")
    assert read.is_of(["a"], ["text"], clusters) and read.info == {"seed": 0}
    assert not read.numbers and not read.routing and not read.layer_places


@pytest.mark.parametrize(
    "name, change",
    [
        ("routing_0", lambda own: own.astype(np.float32)),
        ("routing_1", lambda own: own[:, :1]),
        ("layer_places_0", lambda own: own * np.nan),
        ("layer_places_1", lambda own: own[:, :-1]),
    ],
)
def test_routing_that_does_not_fit_is_damage(name, change, made, tmp_path):
    path = tmp_path / "map.npz"
    save_token_map(path, made[0])
    with np.load(path) as file:
        arrays = {each: file[each] for each in file.files}
    np.savez(path, **(arrays | {name: change(arrays[name])}))
    with pytest.raises(ValueError, match=r"map\.npz is damaged"):
        load_token_map(path)
