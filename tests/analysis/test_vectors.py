"""Routing vectors: the number of components, and independence of the order of the rows."""

import numpy as np
import pytest

from emo_viz.analysis import vectors
from emo_viz.analysis.vectors import fit_pca, flatten_usage, unit_rows
from tests.recipes import routing_vectors


def planted_rows(deviations):
    """Rows whose principal axes have exactly these standard deviations, turned at random."""
    rng, n = np.random.default_rng(0), 400
    raw = rng.normal(size=(n, len(deviations)))
    raw -= raw.mean(axis=0)
    white = np.linalg.qr(raw)[0] * np.sqrt(n - 1)
    turn = np.linalg.qr(rng.normal(size=(len(deviations), len(deviations))))[0]
    return white * deviations @ turn + 3.0


@pytest.mark.parametrize(
    ("variances", "components"),
    [
        ([96, 1, 1, 1, 1], 1),
        ([94, 3, 1, 1, 1], 2),
        ([50, 40, 5.5, 3, 1.5], 3),
        ([20, 20, 20, 20, 20], 5),
    ],
)
def test_fewest_components_that_reach_95_percent(variances, components):
    pca = fit_pca(planted_rows(np.sqrt(variances)))
    shares = np.cumsum(sorted(variances, reverse=True)) / np.sum(variances)
    assert len(pca.components) == components
    assert pca.explained == pytest.approx(shares[components - 1], abs=1e-6)
    assert components == 1 or shares[components - 2] < 0.95


def test_projection_is_that_of_sklearn_up_to_sign():
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(1).gamma(0.5, size=(60, 12))
    pca = fit_pca(rows, components=4)
    reference = PCA(4).fit(rows)
    assert np.abs(pca.project(rows)) == pytest.approx(np.abs(reference.transform(rows)), abs=1e-4)
    assert pca.components @ pca.components.T == pytest.approx(np.eye(4), abs=1e-6)


def test_projection_does_not_depend_on_row_order_nor_block_size(monkeypatch):
    rows = np.random.default_rng(2).random((50, 9)).astype(np.float16)
    order = np.random.default_rng(3).permutation(50)
    whole = fit_pca(rows)
    monkeypatch.setattr(vectors, "ROWS_AT_ONCE", 7)
    shuffled = fit_pca(rows[order])
    assert shuffled.components == pytest.approx(whole.components, abs=1e-5)
    assert shuffled.project(rows) == pytest.approx(whole.project(rows), abs=1e-5)


def test_no_more_components_than_the_rows_span():
    rows = np.random.default_rng(4).random((3, 20))
    assert len(fit_pca(rows, components=10).components) == 2


def test_rows_without_differences_are_refused():
    with pytest.raises(ValueError, match="same routing"):
        fit_pca(np.full((5, 4), 0.3, np.float16))
    with pytest.raises(ValueError, match="at least two rows"):
        fit_pca(np.ones((1, 4)))


def test_usage_of_one_layer_or_of_all():
    usage = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    assert flatten_usage(usage).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert flatten_usage(usage, 1).tolist() == [[3, 4, 5], [9, 10, 11]]
    with pytest.raises(ValueError, match="choose 0 to 1"):
        flatten_usage(usage, 2)


def test_unit_rows_leave_a_row_of_zeros():
    assert unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [
        pytest.approx([0.6, 0.8]),
        [0.0, 0.0],
    ]


def test_routing_vectors_remove_what_all_documents_share():
    rng = np.random.default_rng(5)
    side = np.repeat([1.0, -1.0], 20)
    rows = 0.5 + 0.01 * side[:, None] * np.array([1, -1, 0]) + 1e-4 * rng.normal(size=(40, 3))
    cosines = routing_vectors(rows) @ routing_vectors(rows).T
    assert (np.sign(cosines) == np.outer(side, side)).all()


def test_of_many_columns_the_largest_components_are_those_of_an_exact_pca(monkeypatch):
    rng = np.random.default_rng(3)
    groups = rng.permutation(np.arange(300) % 12)
    wide = (rng.normal(size=(12, 80))[groups] + 0.3 * rng.normal(size=(300, 80))).astype(np.float32)
    exact = fit_pca(wide, components=11)
    monkeypatch.setattr(vectors, "WIDEST", 40)
    found = fit_pca(wide, components=11)
    agreement = np.abs((found.components * exact.components).sum(axis=1))
    assert agreement.min() > 0.999
    assert found.explained == pytest.approx(exact.explained, abs=1e-4)
    order = rng.permutation(300)
    again = fit_pca(wide[order], components=11)
    np.testing.assert_allclose(again.components, found.components, atol=1e-3)


def test_of_many_columns_no_more_components_are_kept_than_rows_span(monkeypatch):
    monkeypatch.setattr(vectors, "WIDEST", 40)
    rng = np.random.default_rng(4)
    flat = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 90)) + 5).astype(np.float32)
    assert len(fit_pca(flat, share=1.0).components) == 3
    with pytest.raises(ValueError, match="same routing"):
        fit_pca(np.full((20, 90), 0.25, np.float32))
