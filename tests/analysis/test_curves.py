"""The arithmetic of subset curves against numbers worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.curves import (
    FORMAT,
    FORMAT_VERSION,
    FULL,
    RANDOM,
    ROUTER_PROBABILITY,
    Curves,
    Measured,
    layout,
    likelihood_kept,
    read_curves,
    resampled_losses,
    write_curves,
)
from emo_viz.analysis.origins import Origins, Weights

# Two domains of two documents. Tokens: fables 10 and 30, laws 20 and 20.
TOKENS = {"f1": 10, "f2": 30, "l1": 20, "l2": 20}
# Summed nats of the documents above, in their order.
EMO_FULL = (20, 30, 40, 60)  # fables 50 / 40 = 1.25, laws 100 / 40 = 2.5: mean 1.875
EMO_EIGHT = (30, 50, 50, 70)  # fables 80 / 40 = 2.0, laws 120 / 40 = 3.0: mean 2.5
STANDARD_FULL = (22, 26, 40, 56)  # fables 48 / 40 = 1.2, laws 96 / 40 = 2.4: mean 1.8
STANDARD_EIGHT = (62, 106, 80, 96)  # four times EMO's increase of every document
RANDOM_0 = (40, 60, 60, 80)  # fables 2.5, laws 3.5: mean 3.0
RANDOM_1 = (60, 80, 80, 100)  # fables 3.5, laws 4.5: mean 4.0


def rows_of(model: str, method: str, keep_k: int, seed: int, losses: tuple[int, ...]) -> list[dict]:
    return [
        {
            "model": model,
            "domain": "fables" if document.startswith("f") else "laws",
            "method": method,
            "keep_k": keep_k,
            "seed": seed,
            "document": document,
            "loss_sum": float(loss),
            "tokens": TOKENS[document],
        }
        for document, loss in zip(TOKENS, losses, strict=True)
    ]


@pytest.fixture
def rows() -> pd.DataFrame:
    """In no order, as a file may have them."""
    table = [
        *rows_of("emo-nano", FULL, 16, 0, EMO_FULL),
        *rows_of("emo-nano", ROUTER_PROBABILITY, 8, 0, EMO_EIGHT),
        *rows_of("emo-nano", RANDOM, 8, 0, RANDOM_0),
        *rows_of("emo-nano", RANDOM, 8, 1, RANDOM_1),
        *rows_of("std-nano", FULL, 16, 0, STANDARD_FULL),
        *rows_of("std-nano", ROUTER_PROBABILITY, 8, 0, STANDARD_EIGHT),
        *rows_of("std-nano", RANDOM, 8, 0, RANDOM_0),
        *rows_of("std-nano", RANDOM, 8, 1, RANDOM_1),
    ]
    return pd.DataFrame(table).sample(frac=1, random_state=0)


def test_loss_is_token_weighted_in_a_domain_and_a_plain_mean_over_domains(rows):
    measured = Measured.of(rows)
    assert measured.full_loss("emo-nano").mean == pytest.approx(1.875)
    assert measured.increase("emo-nano", ROUTER_PROBABILITY, 8).mean == pytest.approx(2.5 - 1.875)
    assert measured.increase("std-nano", ROUTER_PROBABILITY, 8).mean == pytest.approx(2.5)
    assert measured.full_difference("emo-nano", "std-nano").mean == pytest.approx(0.075)
    assert (measured.documents, measured.tokens) == (4, 80)


def test_one_domain_alone_has_its_own_numbers(rows):
    fables = Measured.of(Curves(rows, {}).of_domain("fables"))
    assert fables.increase("emo-nano", ROUTER_PROBABILITY, 8).mean == pytest.approx(0.75)
    assert fables.tokens == 40


def test_keeping_all_experts_costs_exactly_nothing_whatever_the_method(rows):
    measured = Measured.of(rows)
    for method in (ROUTER_PROBABILITY, RANDOM):
        none = measured.increase("emo-nano", method, 16)
        assert (none.mean, none.low, none.high) == (0.0, 0.0, 0.0)


def test_random_subsets_are_averaged_and_their_range_is_kept(rows):
    table = Measured.of(rows).table.set_index(["model", "method", "keep_k"])
    point = table.loc["emo-nano", RANDOM, 8]
    assert point["loss"] == pytest.approx(3.5)
    assert (point["loss_min"], point["loss_max"]) == pytest.approx((3.0, 4.0))
    assert point["increase"] == pytest.approx(3.5 - 1.875)
    assert (point["increase_min"], point["increase_max"]) == pytest.approx((1.125, 2.125))
    assert point["seeds"] == 2
    assert point["increase_low"] <= point["increase"] <= point["increase_high"]
    assert table.loc["emo-nano", FULL, 16]["increase"] == 0


def test_resamples_draw_documents_inside_their_domain(rows):
    """Of two documents a resample holds one, both or the other: three possible losses."""
    fables = Curves(rows, {}).of_domain("fables")
    cells = layout(fables)
    cell = int(cells.find("emo-nano", ROUTER_PROBABILITY, 8)[0])
    drawn = np.unique(resampled_losses(cells, 500)[:, cell].round(9))
    assert drawn == pytest.approx([50 / 30, 80 / 40, 30 / 10])
    span = Measured.of(fables).increase("emo-nano", ROUTER_PROBABILITY, 8)
    assert (span.low, span.high) == pytest.approx((20 / 30, 10 / 10))


def test_the_ratio_of_two_models_is_paired_by_document(rows):
    ratio = Measured.of(rows).ratio(
        ("std-nano", ROUTER_PROBABILITY, 8), ("emo-nano", ROUTER_PROBABILITY, 8)
    )
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((4, 4, 4))


def test_a_ratio_to_nothing_lost_is_infinite(rows):
    measured = Measured.of(rows)
    ratio = measured.ratio(
        ("std-nano", ROUTER_PROBABILITY, 8), ("emo-nano", ROUTER_PROBABILITY, 16)
    )
    assert ratio.mean == ratio.low == ratio.high == np.inf


def test_a_ratio_to_a_gain_is_infinite(rows):
    """A subset that is better than the full model loses less than nothing."""
    cut = (rows["model"] == "emo-nano") & (rows["method"] == ROUTER_PROBABILITY)
    better = rows.assign(loss_sum=rows["loss_sum"].where(~cut, rows["loss_sum"] / 10))
    measured = Measured.of(better)
    assert measured.increase("emo-nano", ROUTER_PROBABILITY, 8).mean < 0
    ratio = measured.ratio(("std-nano", ROUTER_PROBABILITY, 8), ("emo-nano", ROUTER_PROBABILITY, 8))
    assert ratio.mean == ratio.low == np.inf


def test_what_loses_nothing_has_no_ratio_to_what_loses_nothing(rows):
    better = rows["method"] == ROUTER_PROBABILITY
    rows = rows.assign(loss_sum=rows["loss_sum"].where(~better, rows["loss_sum"] / 10))
    measured = Measured.of(rows)
    ratio = measured.ratio(("std-nano", ROUTER_PROBABILITY, 8), ("emo-nano", ROUTER_PROBABILITY, 8))
    assert np.isnan([ratio.mean, ratio.low, ratio.high]).all()


def test_one_document_a_domain_has_no_interval(rows):
    alone = rows[rows["document"].isin(["f1", "l1"])]
    span = Measured.of(alone).increase("emo-nano", ROUTER_PROBABILITY, 8)
    assert span.mean == pytest.approx((10 / 10 + 10 / 20) / 2)
    assert np.isnan(span.low) and np.isnan(span.high)


def test_a_point_that_was_not_measured_is_not_invented(rows):
    with pytest.raises(ValueError, match="no router_probability point of EMO at 12"):
        Measured.of(rows).increase("emo-nano", ROUTER_PROBABILITY, 12)


def test_a_document_that_one_cell_lacks_is_an_error(rows):
    gap = (rows["document"] == "l2") & (rows["model"] == "emo-nano") & (rows["method"] == FULL)
    with pytest.raises(ValueError, match="laws are not measured on the same documents"):
        layout(rows[~gap])


def test_a_cell_that_one_domain_lacks_is_an_error(rows):
    gap = (rows["domain"] == "laws") & (rows["method"] == RANDOM) & (rows["seed"] == 1)
    with pytest.raises(ValueError, match="same documents for every model"):
        layout(rows[~gap])


def test_curves_without_the_full_model_or_without_rows_are_an_error(rows):
    with pytest.raises(ValueError, match="of Standard MoE lack its full-model loss"):
        layout(rows[(rows["model"] == "emo-nano") | (rows["method"] != FULL)])
    with pytest.raises(ValueError, match="no rows"):
        layout(rows.head(0))


def test_runs_with_different_tokenizers_count_their_own_tokens(rows):
    """The other run needs twice the tokens: its nats a token are half, its documents the same."""
    twice = rows["tokens"].where(rows["model"] == "emo-nano", 2 * rows["tokens"])
    measured = Measured.of(rows.assign(tokens=twice))
    assert measured.increase("emo-nano", ROUTER_PROBABILITY, 8).mean == pytest.approx(0.625)
    assert measured.increase("std-nano", ROUTER_PROBABILITY, 8).mean == pytest.approx(2.5 / 2)
    assert (measured.tokens_of("emo-nano"), measured.tokens_of("std-nano")) == (80, 160)
    assert set(measured.table.set_index("model")["tokens"].items()) == {
        ("emo-nano", 80),
        ("std-nano", 160),
    }


def test_runs_may_have_different_numbers_of_experts(rows):
    fewer = rows["keep_k"].where(rows["model"] == "emo-nano", rows["keep_k"] // 2)
    experts = {"emo-nano": {"num_experts": 16}, "std-nano": {"num_experts": 8}}
    curves = Curves(rows.assign(keep_k=fewer), {"runs": experts})
    assert (curves.experts("emo-nano"), curves.experts("std-nano")) == ((16,), (8,))
    measured = Measured.of(curves.rows)
    assert measured.increase("std-nano", ROUTER_PROBABILITY, 4).mean == pytest.approx(2.5)
    assert measured.full_loss("std-nano").mean == pytest.approx(1.8)


def test_one_run_alone_is_a_curve_like_any_other(rows):
    alone = Curves(rows, info_of()).of_runs(["std-nano"])
    measured = Measured.of(alone.rows)
    assert measured.full_loss("std-nano").mean == pytest.approx(1.8)
    with pytest.raises(ValueError, match="hold no run emo-nano"):
        measured.full_loss("emo-nano")
    with pytest.raises(ValueError, match="hold no run other; measure it"):
        alone.of_runs(["other"])


def test_the_share_of_the_likelihood_that_is_left():
    assert likelihood_kept(np.log(2)) == pytest.approx(0.5)


def info_of(**changes: object) -> dict:
    """What curves.json says at the least."""
    domains = ("fables", "laws")
    per_domain = {model: dict.fromkeys(domains, [[0, 1]]) for model in ("emo-nano", "std-nano")}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "runs": {run: {"num_experts": 16} for run in per_domain},
        "models": {"emo-nano": {"name": "emo-nano", "sha256": "5cdf"}},
        "domains": {name: {"calibration": ["c1"], "other": None} for name in domains},
        "ranking": per_domain,
        "greedy": {model: dict.fromkeys(domains, {}) for model in per_domain},
    } | changes


def test_curves_survive_the_way_to_disk(rows, tmp_path: Path):
    info = info_of(documents="d1", calibration="c1")
    path = tmp_path / "new" / "curves.parquet"
    write_curves(Curves(rows, info), path)
    back = read_curves(path)
    assert info.items() <= back.info.items()
    assert back.origins == Origins({"emo-nano": Weights("emo-nano", "5cdf")}, "d1", "c1")
    assert Measured.of(back.rows).full_loss("emo-nano").mean == pytest.approx(1.875)
    assert sorted(file.name for file in path.parent.iterdir()) == ["curves.json", "curves.parquet"]


def test_version_1_knew_one_pair_and_is_read_as_its_two_runs(rows, tmp_path: Path):
    """As the bundled curves are: roles instead of run ids, one number of experts for both."""
    roles = {"emo-nano": "emo", "std-nano": "standard"}
    now = info_of(runs={run: {"num_experts": 16, "num_experts_per_tok": 4} for run in roles})
    old = {name: value for name, value in now.items() if name != "runs"}
    old |= {"format_version": 1, "num_experts": 16, "num_experts_per_tok": 4}
    for name in ("models", "ranking", "greedy"):
        old[name] = {roles[run]: value for run, value in now[name].items()}
    path = tmp_path / "curves.parquet"
    rows.assign(model=rows["model"].map(roles).astype("category")).to_parquet(path)
    path.with_suffix(".json").write_text(json.dumps(old))
    back = read_curves(path)
    assert back.runs == ("emo-nano", "std-nano") and back.experts("std-nano") == (16,)
    assert set(back.rows["model"]) == set(roles)
    assert Measured.of(back.rows).full_loss("emo-nano").mean == pytest.approx(1.875)
    write_curves(back, path)
    again = read_curves(path)
    assert again.info["format_version"] == FORMAT_VERSION and again.info["runs"] == now["runs"]
    assert again.origins == back.origins == Origins({"emo-nano": Weights("emo-nano", "5cdf")})


def test_missing_foreign_and_truncated_curves_are_named(rows, tmp_path: Path):
    path = tmp_path / "curves.parquet"
    with pytest.raises(ValueError, match="no readable curves"):
        read_curves(path)
    write_curves(Curves(rows, info_of()), path)
    path.with_suffix(".json").write_text(json.dumps(info_of(format_version=FORMAT_VERSION + 1)))
    with pytest.raises(ValueError, match="not of curve format 2"):
        read_curves(path)
    path.with_suffix(".json").write_text(json.dumps(info_of()))
    rows.drop(columns="tokens").to_parquet(path)
    with pytest.raises(ValueError, match="lacks the column tokens"):
        read_curves(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no readable curves"):
        read_curves(path)


def test_a_table_and_a_description_of_two_measurements_are_not_taken_for_one(rows, tmp_path: Path):
    path, other = tmp_path / "curves.parquet", tmp_path / "other.parquet"
    write_curves(Curves(rows, info_of()), path)
    write_curves(Curves(rows.assign(loss_sum=rows["loss_sum"] + 1), info_of()), other)
    other.replace(path)
    with pytest.raises(ValueError, match="are of two measurements; write the curves again"):
        read_curves(path)
    # What an earlier version wrote does not say: it is read as it is.
    path.with_suffix(".json").write_text(json.dumps(info_of()))
    assert len(read_curves(path).rows) == len(rows)


@pytest.mark.parametrize(
    "damage",
    [
        {"domains": {"fables": {"calibration": ["c1"]}}},
        {"ranking": {}},
        {"greedy": {"emo-nano": None, "std-nano": None}},
        {"runs": {"emo-nano": {"num_experts": "many"}}},
        {"runs": {"emo-nano": {"num_experts": 16}}},
        {"models": [1]},
    ],
)
def test_a_description_that_does_not_fit_the_table_is_damage(rows, tmp_path: Path, damage: dict):
    path = tmp_path / "curves.parquet"
    write_curves(Curves(rows, info_of(**damage)), path)
    with pytest.raises(ValueError, match="curves.parquet is damaged; write the curves again"):
        read_curves(path)


@pytest.mark.parametrize("column", ["loss_sum", "tokens"])
@pytest.mark.parametrize("value", [np.nan, "a", None])
def test_a_table_whose_numbers_are_none_is_damage(rows, tmp_path: Path, column: str, value):
    path = tmp_path / "curves.parquet"
    values = rows[column].astype(object)
    values.iloc[0] = value
    rows = rows.assign(**{column: values.astype(str if value == "a" else float)})
    write_curves(Curves(rows, info_of()), path)
    with pytest.raises(ValueError, match="curves.parquet is damaged; write the curves again"):
        read_curves(path)


def test_curves_that_would_lie_on_their_own_description_are_refused(rows, tmp_path: Path):
    for name in ("curves.json", "curves"):
        with pytest.raises(ValueError, match="does not end in .parquet"):
            write_curves(Curves(rows, info_of()), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_curves_that_cannot_be_written_leave_the_old_ones(rows, tmp_path: Path):
    path = tmp_path / "curves.parquet"
    write_curves(Curves(rows, info_of()), path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_curves(Curves(rows.head(3), info_of(settings=object())), path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
