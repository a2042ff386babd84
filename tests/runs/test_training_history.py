"""Measuring the checkpoints of a training run: against what other code measured of the same model,
and as a file that checkpoints are added to."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from emo_viz.__main__ import main
from emo_viz.analysis.curves import ROUTER_PROBABILITY, read_curves
from emo_viz.analysis.training_history import (
    History,
    decode_usage,
    encode_usage,
    increases,
    project,
    read_history,
    write_history,
)
from emo_viz.runs import training_history as runs
from emo_viz.runs.trained import find_tokenizer, open_checkpoint
from emo_viz.trace import Trace
from model.emo.modeling import EmoForCausalLM
from model.emo.routing import PoolSizes
from model.run.loading import load_tokenizer
from model.train.presets import NANO

KEEPS = (4, 8)


def measured(
    assets: Path, out: Path, *names: tuple[int, str], anew: bool = False, workers: int = 1
) -> History:
    folders = [(step, assets / "checkpoints" / name) for step, name in names]
    documents = assets / "documents"
    paths = documents / "documents.parquet", documents / "calibration.parquet"
    return runs.measure_history(
        folders,
        *paths,
        out,
        keeps=KEEPS,
        per_domain=100,
        run="tiny",
        anew=anew,
        workers=workers,
    )


@pytest.fixture(scope="module")
def history(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History]:
    out = tmp_path_factory.mktemp("history") / "training-tiny.npz"
    return out, measured(tiny_assets, out, (50, "emo-nano"), (100, "std-nano"))


def test_checkpoints_of_other_numbers_of_experts_leave_the_file_as_it_was(
    history: tuple[Path, History],
):
    found = read_history(history[0])
    whole = found.keeps[-1]
    wider = runs.Made(found.moments[0], None, 2, 2 * whole)
    with pytest.raises(ValueError, match="same number of experts"):
        runs._with(found, wider)


def test_usage_is_that_of_the_recording(tiny_assets: Path, history: tuple[Path, History]):
    trace = Trace.open(tiny_assets / "traces" / "emo-nano")
    places = {each: place for place, each in enumerate(trace.documents["id"])}
    order = [places[each] for each in history[1].documents.ids]
    usage = np.asarray(trace.usage, np.float32)[order]
    assert np.allclose(history[1].moments[0].usage, usage, atol=2e-3)


@pytest.mark.parametrize(("moment", "run"), [(0, "emo-nano"), (1, "std-nano")])
def test_what_a_cut_costs_is_what_the_curves_say(
    tiny_assets: Path, history: tuple[Path, History], moment: int, run: str
):
    rows = read_curves(tiny_assets / "analysis" / "curves.parquet").rows.astype({"model": str})
    rows = rows[(rows["model"] == run) & (rows["method"] == ROUTER_PROBABILITY)]
    assert history[1].keeps == (4, 8, 16)
    for notch, keep in enumerate(KEEPS):
        cell = rows[rows["keep_k"] == keep].set_index("document")
        expected = cell["loss_sum"] / cell["tokens"]
        own = pd.Series(history[1].moments[moment].losses[:, notch], history[1].documents.ids)
        assert np.allclose(own, expected.loc[own.index], atol=1e-5)


def test_a_checkpoint_that_comes_later_is_added_and_no_other_is_measured_again(
    tiny_assets: Path,
    history: tuple[Path, History],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    out, asked = tmp_path / "training-later.npz", list[int]()
    measure = runs._measure
    monkeypatch.setattr(
        runs,
        "_measure",
        lambda model, step, *rest: (asked.append(step), measure(model, step, *rest))[1],
    )
    measured(tiny_assets, out, (100, "std-nano"))
    measured(tiny_assets, out, (50, "emo-nano"), (100, "std-nano"))
    assert asked == [100, 50]
    found, whole = read_history(out), read_history(history[0])
    assert found.steps == [50, 100]
    for one, other in zip(found.moments, whole.moments, strict=True):
        assert (one.usage == other.usage).all() and (one.losses == other.losses).all()
        assert one.measures == other.measures


def test_two_workers_write_the_bytes_of_one(
    tiny_assets: Path, history: tuple[Path, History], tmp_path: Path
):
    out = tmp_path / "training-tiny.npz"
    measured(tiny_assets, out, (100, "std-nano"), (50, "emo-nano"), workers=2)
    assert out.read_bytes() == history[0].read_bytes()


def test_anew_keeps_what_is_of_the_same_training_and_replaces_all_else(
    tiny_assets: Path, history: tuple[Path, History], tmp_path: Path, monkeypatch
):
    """A step whose folder is gone stays; another training's steps, other documents, damage go."""
    monkeypatch.setattr(runs, "_measure", lambda *_: history[1].moments[1])
    out, gone = tmp_path / "training-tiny.npz", history[1].moments[0]
    std = history[1].moments[1]
    for old, steps in [
        (history[1], [50, 100]),
        (replace(history[1], moments=(gone,)), [100]),
        (replace(history[1], moments=(gone, replace(std, weights="another"))), [100]),
        (replace(history[1], key="other"), [100]),
        (replace(history[1], run="other"), [100]),
    ]:
        write_history(out, old)
        assert measured(tiny_assets, out, (100, "std-nano"), anew=True).steps == steps
        assert read_history(out).steps == steps
    out.write_bytes(b"damaged")
    assert measured(tiny_assets, out, (100, "std-nano"), anew=True).steps == [100]


def test_a_file_of_other_documents_is_not_added_to(
    tiny_assets: Path, history: tuple[Path, History], tmp_path: Path
):
    out = tmp_path / "training-other.npz"
    write_history(out, replace(history[1], key="other"))
    before = out.read_bytes()
    with pytest.raises(ValueError, match="other documents"):
        measured(tiny_assets, out, (50, "emo-nano"))
    assert out.read_bytes() == before


def test_eight_bits_keep_a_probability_and_do_not_drift():
    usage = np.random.default_rng(0).dirichlet(np.full(100, 0.1), (5, 3)).astype(np.float32)
    coded, scale = encode_usage(usage)
    decoded = decode_usage(coded, scale)
    # Half a level of the square root: finer where probabilities are small.
    assert (np.abs(np.sqrt(decoded) - np.sqrt(usage)) <= 0.51 * np.sqrt(scale) / 255).all()
    again, same = encode_usage(decoded)
    assert (again == coded).all() and same == scale


def test_equal_routing_has_equal_places_at_every_step(history: tuple[Path, History]):
    first, second = history[1].moments
    three = replace(history[1], moments=(first, second, replace(first, step=200)))
    places = project(three).places
    assert np.allclose(places[0], places[2], atol=1e-5)
    assert not np.allclose(places[0], places[1], atol=1e-2)


def test_increases_are_means_over_domains_with_whole_models_at_zero(history: tuple[Path, History]):
    found, told = increases(history[1]), history[1].documents
    frame = pd.DataFrame({"domain": told.domains, "tokens": told.tokens})
    frame["more"] = history[1].moments[1].losses[:, 0] - history[1].moments[1].losses[:, -1]
    means = frame.groupby("domain")[["more", "tokens"]].apply(
        lambda own: np.average(own["more"], weights=own["tokens"])
    )
    assert found[1, 0, 0] == pytest.approx(means.mean(), abs=1e-4)
    assert (found[:, -1] == 0).all() and (found[..., 1] <= found[..., 0]).all()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_file_is_one_sentence(history: tuple[Path, History], tmp_path: Path, content):
    path = tmp_path / "training-bad.npz"
    path.write_bytes(history[0].read_bytes()[:-500] if content is None else content)
    with pytest.raises(ValueError, match=r"training-bad\.npz"):
        read_history(path)


@pytest.fixture
def trained(tiny_assets: Path, tmp_path: Path) -> tuple[Path, EmoForCausalLM]:
    """A checkpoint as the trainer leaves it, and its model."""
    tokenizer = load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")
    sizes = {"hidden_size": 32, "expert_width": 8, "num_layers": 2, "num_experts": 16}
    preset = replace(NANO, **sizes, num_experts_per_tok=4, pools=PoolSizes(4, 16))
    preset = preset.for_vocabulary(len(tokenizer))
    torch.manual_seed(0)
    model = EmoForCausalLM(preset.model_config(tokenizer.eos_token_id, tokenizer.pad_token_id))
    settings = json.loads(json.dumps(asdict(preset)))
    folder = tmp_path / "step-50"
    folder.mkdir()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    save_file(weights, folder / "model.safetensors")
    (folder / "run.json").write_text(json.dumps({"step": 50, "preset": settings}))
    return folder, model


def test_a_training_checkpoint_opens_as_its_model(tiny_assets: Path, trained):
    folder, model = trained
    tokenizer = find_tokenizer([folder, tiny_assets / "checkpoints" / "emo-nano"], None)
    found, tokens = open_checkpoint(folder, tokenizer)
    assert tokens == 64 * 256 and not found.training
    assert found.config.to_dict() == model.config.to_dict()
    ours = dict(model.named_parameters())
    assert all(torch.equal(ours[name], value) for name, value in found.named_parameters())


def test_a_training_checkpoint_that_cannot_be_read_says_why(tiny_assets: Path, trained):
    folder, _ = trained
    tokenizer = load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")
    run = json.loads((folder / "run.json").read_text())

    def fault() -> str:
        with pytest.raises(ValueError) as caught:
            open_checkpoint(folder, tokenizer)
        return str(caught.value)

    def write(**changes) -> None:
        (folder / "run.json").write_text(json.dumps(run | {"preset": run["preset"] | changes}))

    write(warp=9)
    assert "warp" in fault() and "version" in fault()
    write(num_experts=32)
    assert "other weights" in fault()
    write(pools={"least": 1})
    assert "describes no training run" in fault()
    write()
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert "cannot be read" in fault()
    (folder / "model.safetensors").unlink()
    assert "several processes" in fault()


def test_the_command_measures_and_refuses_in_one_sentence(
    tiny_assets: Path, trained, tmp_path: Path
):
    folder, _ = trained
    documents, out = tiny_assets / "documents", tmp_path / "out" / "training-run.npz"

    def call(*checkpoints: str, **more: str):
        options = {
            "documents": documents / "documents.parquet",
            "calibration": documents / "calibration.parquet",
            "tokenizer": tiny_assets / "checkpoints" / "emo-nano",
            "keep": "4,8",
            "out": out,
        } | more
        given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        return CliRunner().invoke(main, ["training-history", "--checkpoints", *checkpoints, *given])

    for result, said in (
        (call(f"final={folder}"), "says no step"),
        (call(f"step-1={tmp_path / 'none'}"), "There is no checkpoint"),
        (call(f"step-1={folder}", f"step-1={folder}"), "named twice"),
        (call(f"step-50={folder}", keep="2,8"), "2 experts cannot be kept; choose from 4 to 15"),
        (call(f"step-50={folder}", keep="few"), "is not a list"),
        (call(f"step-50={folder}", tokenizer=str(tmp_path)), "There is no tokenizer"),
        (
            call(f"step-50={folder}", calibration=str(documents / "documents.parquet")),
            "calibration",
        ),
    ):
        assert result.exit_code == 2 and said in result.output, result.output
        assert not out.exists()
    result = call(str(folder))  # the step is in the folder's name
    assert result.exit_code == 0, result.output
    assert "at steps 50, 24 documents" in result.output
    assert read_history(out).tokens_per_step == 64 * 256
    shutil.rmtree(out.parent)
