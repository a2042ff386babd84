"""python -m emo_viz subset and cut: from a domain's documents to a checkpoint of its experts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from tiny import save_tiny

from emo_viz.__main__ import main
from emo_viz.trace import Trace
from emo_viz.trace.documents import texts_digest
from model.files import weights_digest
from model.run.inference import encode
from model.run.live import LiveFamily, open_live
from model.run.loading import load_model, load_tokenizer
from model.run.selection import select_experts
from model.run.subset import ExpertSubset, apply_subset, check_keep_k, random_subset


@pytest.fixture
def choose(tiny_assets, tmp_path):
    def invoke(**changes):
        options = {
            "model": tiny_assets / "checkpoints" / "emo-nano",
            "documents": tiny_assets / "documents" / "calibration.parquet",
            "domain": "kitchen",
            "keep": 6,
            "out": tmp_path / "kitchen.json",
        }
        named = [f"--{name}={value}" for name, value in (options | changes).items() if value]
        return CliRunner().invoke(main, ["subset", *named])

    return invoke


def cut(model, subset, out, *more):
    return CliRunner().invoke(
        main, ["cut", f"--model={model}", f"--subset={subset}", f"--out={out}", *more]
    )


def emo_viz(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("method", ["router_probability", "greedy"])
def test_the_experts_are_those_that_the_domains_documents_prefer(
    choose, tiny_assets, tmp_path, method
):
    result = choose(method=method)
    assert result.exit_code == 0, result.output
    assert "6 experts in each of 2 layers, chosen on 3 documents" in result.output
    folder = tiny_assets / "checkpoints" / "emo-nano"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    table = pd.read_parquet(tiny_assets / "documents" / "calibration.parquet")
    table = table[table["domain"] == "kitchen"]
    texts = [encode(tokenizer, text, 256).token_ids for text in table["text"]]
    expected = select_experts(model, texts, 6, method, table["id"].tolist())
    written = ExpertSubset.from_json((tmp_path / "kitchen.json").read_text())
    assert written == replace(
        expected,
        model="emo-nano",
        weights_sha256=weights_digest(folder),
        domain="kitchen",
        documents_sha256=texts_digest(table["text"]),
    )


def test_without_a_domain_all_documents_are_used(choose, tmp_path):
    assert "chosen on 12 documents" in choose(domain=None).output


def test_the_cut_checkpoint_opens_and_records_as_the_parent_under_the_subset(
    choose, tiny_assets, tmp_path
):
    choose()
    parent, out = tiny_assets / "checkpoints" / "emo-nano", tmp_path / "small"
    result = cut(parent, tmp_path / "kitchen.json", out)
    assert result.exit_code == 0, result.output
    assert "MB of weights of" in result.output
    small, whole = load_model(out), load_model(parent)
    ids = torch.tensor(encode(load_tokenizer(out), "flour butter oven", 64).token_ids)[None]
    subset = ExpertSubset.from_json((tmp_path / "kitchen.json").read_text())
    with torch.no_grad(), apply_subset(whole, subset):
        assert torch.allclose(small(ids).logits, whole(ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"domain": "kitchens"}, "no documents of the domain 'kitchens'; it has court, garden"),
        ({"keep": 3}, "keep-k must be 4"),
        ({"keep": 17}, "keep-k must be 4"),
        ({"documents": __file__}, "is not a Parquet file of documents"),
        ({"max-tokens": 600}, "600 tokens a document are not within 2 and 512"),
        ({"out": "/dev/null/x.json", "model": "nowhere"}, "cannot be written"),
        ({"out": "/dev", "model": "nowhere"}, "is a folder; name a file"),
        ({"model": "nowhere"}, "There is no checkpoint at nowhere"),
    ],
)
def test_a_choice_that_cannot_be_made_is_one_sentence(choose, tmp_path, changes, sentence):
    result = choose(**changes)
    assert result.exit_code == 2
    assert sentence in result.output and result.stderr.count("Error") == 1
    assert not list(tmp_path.iterdir())


def test_only_another_subset_is_replaced(choose, tmp_path):
    (tmp_path / "kitchen.json").write_text('{"precious": 1}')
    result = choose()
    assert result.exit_code == 2 and "exists and is not a subset" in result.output
    assert (tmp_path / "kitchen.json").read_text() == '{"precious": 1}'
    assert choose(out=tmp_path / "other.json").exit_code == 0
    assert choose(out=tmp_path / "other.json", keep=5).exit_code == 0
    assert ExpertSubset.from_json((tmp_path / "other.json").read_text()).keep_k == 5


def test_domains_that_are_numbers_are_chosen_by_their_digits(choose, tiny_assets, tmp_path):
    table = pd.read_parquet(tiny_assets / "documents" / "calibration.parquet")
    numbers = tmp_path / "numbers.parquet"
    table.assign(domain=[1, 2] * 6, id=range(12)).to_parquet(numbers)
    result = choose(documents=numbers, domain="2", out=tmp_path / "two.json")
    assert result.exit_code == 0, result.output
    subset = ExpertSubset.from_json((tmp_path / "two.json").read_text())
    assert subset.calibration == tuple(str(number) for number in range(1, 12, 2))
    assert (
        "has no documents of the domain '3'; it has 1, 2."
        in choose(documents=numbers, domain="3", out=tmp_path / "three.json").output
    )


def test_a_subset_of_another_model_is_refused_unless_forced(choose, tiny_assets, tmp_path):
    choose()
    other, out = tiny_assets / "checkpoints" / "std-nano", tmp_path / "small"
    result = cut(other, tmp_path / "kitchen.json", out)
    assert result.exit_code == 2 and not out.exists()
    assert "kitchen.json: This subset lists experts of emo-nano, and" in result.output
    assert "or cut with --force" in result.output
    assert cut(other, tmp_path / "kitchen.json", out, "--force").exit_code == 0


def test_a_subset_of_the_parent_does_not_fit_what_was_cut_of_it(choose, tiny_assets, tmp_path):
    choose()
    kitchen, small = tmp_path / "kitchen.json", tmp_path / "small"
    assert cut(tiny_assets / "checkpoints" / "emo-nano", kitchen, small).exit_code == 0
    result = cut(small, kitchen, tmp_path / "smaller")
    assert result.exit_code == 2
    assert f"{small}: Layer 0 of the subset does not fit" in result.output
    assert "make it again with python -m emo_viz subset for it." in result.output


def test_sizes_that_cannot_be_are_said_before_a_model_is_loaded(choose, monkeypatch):
    def never(*_):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("model.run.live.open_live", never)
    assert "keep-k must be 4" in choose(keep=99).output
    assert "600 tokens a document are not within" in choose(**{"max-tokens": 600}).output


def test_a_subset_that_names_no_model_is_refused_unless_forced(choose, tiny_assets, tmp_path):
    choose()
    file, parent = tmp_path / "kitchen.json", tiny_assets / "checkpoints" / "emo-nano"
    fields = json.loads(file.read_text())
    old = {name: fields[name] for name in ("experts", "method", "calibration", "budget")}
    file.write_text("\ufeff" + json.dumps(old))
    result = cut(parent, file, tmp_path / "small")
    assert result.exit_code == 2
    assert "does not say whose experts it lists" in result.output
    assert "or cut with --force" in result.output
    assert cut(parent, file, tmp_path / "small", "--force").exit_code == 0


def test_the_page_exports_what_cut_takes(tiny_assets, tmp_path):
    """By the page's own function: its files name the model as the command's do."""
    from emo_viz.ui.ablation.export import subset_json

    parent = tiny_assets / "checkpoints" / "emo-nano"
    study = SimpleNamespace(models={"emo-nano": SimpleNamespace(path=parent)})
    subset = random_subset(load_model(parent).config, 6, seed=0)
    (tmp_path / "page.json").write_text(subset_json(study, "emo-nano", subset))
    assert cut(parent, tmp_path / "page.json", tmp_path / "small").exit_code == 0


def test_uneven_layers_are_cut_recorded_and_chosen_from(tiny_assets, tmp_path):
    """From a subset with another number of experts in each layer to a cut of that cut."""
    parent, documents = tiny_assets / "checkpoints" / "emo-nano", tiny_assets / "documents"
    uneven = ExpertSubset(((0, 2, 4, 15), tuple(range(5, 16))), "by hand", (), 11)
    (tmp_path / "uneven.json").write_text(uneven.to_json())
    assert cut(parent, tmp_path / "uneven.json", tmp_path / "cut", "--force").exit_code == 0
    held_out = documents / "documents.parquet"
    emo_viz(
        *("record", "--model", tmp_path / "cut", "--documents", held_out),
        *("--out", tmp_path / "trace", "--level", "tokens", "--limit", 3),
    )
    trace = Trace.open(tmp_path / "trace")
    assert trace.manifest.model.num_experts_per_layer == (4, 11)
    experts = trace.query("select layer, max(expert) as e from routing group by layer order by 1")
    assert experts["e"].tolist()[0] == 2 and 2 < experts["e"].tolist()[1] <= 9
    chosen = emo_viz(
        *("subset", "--model", tmp_path / "cut", "--documents", documents / "calibration.parquet"),
        *("--keep", 6, "--method", "greedy", "--out", tmp_path / "six.json"),
    )
    assert "4 to 6 experts in each of 2 layers" in chosen.output
    assert cut(tmp_path / "cut", tmp_path / "six.json", tmp_path / "again").exit_code == 0
    metadata = json.loads((tmp_path / "again" / "pruning_metadata.json").read_text())
    assert metadata["original"] == "emo-nano"
    assert metadata["experts_kept_per_layer"][0] == [0, 2, 4, 15]
    assert set(metadata["experts_kept_per_layer"][1]) <= set(range(5, 16))
    assert load_model(tmp_path / "again").config.num_experts_per_layer == [4, 6]


def test_out_is_tried_before_the_checkpoint_is_read(tmp_path):
    file = tmp_path / "subset.json"
    for out, sentence in (("/dev/null/x", "cannot be written"), (tmp_path, "is there already")):
        result = cut(tmp_path / "nowhere", file, out)
        assert result.exit_code == 2 and sentence in result.output


@pytest.mark.parametrize("content", [None, "{", json.dumps({"experts": [[0, 1]]})])
def test_a_file_that_is_no_subset_is_one_sentence(tiny_assets, tmp_path, content):
    file = tmp_path / "subset.json"
    if content is not None:
        file.write_text(content)
    result = cut(tiny_assets / "checkpoints" / "emo-nano", file, tmp_path / "small")
    assert result.exit_code == 2
    assert "subset" in result.stderr and result.stderr.count("Error") == 1
    assert not (tmp_path / "small").exists()


@pytest.fixture(scope="module")
def other_families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    for family in ("mixtral", "switch_transformers"):
        save_tiny(family, folder / family)
    documents = [{"id": f"d{n}", "domain": "x", "text": "a b c d e f g h"[: 5 + n]} for n in (1, 3)]
    pd.DataFrame(documents).to_json(folder / "documents.jsonl", orient="records", lines=True)
    return folder


def choose_of(folder, family, out, *more):
    how = [*more, "--domain", "x", "--keep", "4", "--max-tokens", "32", "--out", out]
    documents = folder / "documents.jsonl"
    named = ["--model", folder / family, "--documents", documents, *how]
    return CliRunner().invoke(main, ["subset", *map(str, named)])


def test_experts_of_another_family_are_chosen_as_its_router_prefers(other_families, tmp_path):
    out = tmp_path / "mixtral.json"
    result = choose_of(other_families, "mixtral", out)
    assert result.exit_code == 0, result.output
    assert "4 experts in each of 3 layers, chosen on 2 documents" in result.output
    live = open_live(other_families / "mixtral")
    texts = [live.encode("a b c d e f g h"[: 5 + n], 32).token_ids for n in (1, 3)]
    best = np.argsort(-live.scores(texts), axis=1)[:, :4]
    written = ExpertSubset.from_json(out.read_text())
    assert [sorted(layer) for layer in written.experts] == np.sort(best, axis=1).tolist()


def test_what_a_family_cannot_do_is_one_sentence(other_families, tmp_path):
    subset = tmp_path / "mixtral.json"
    assert "encoder-decoder" in choose_of(other_families, "switch_transformers", subset).output
    assert not subset.exists()


def test_a_model_with_groups_is_cut_to_equally_many_of_each(other_families, tmp_path):
    subset, out = tmp_path / "deepseek.json", tmp_path / "cut"
    width = {"n_routed_experts": 16, "n_group": 2, "topk_group": 1, "num_hidden_layers": 2}
    save_tiny("deepseek_v3", other_families / "deepseek_v3", **width)
    whole = choose_of(other_families, "deepseek_v3", subset, "--per-group")
    assert whole.exit_code == 0, whole.output
    (kept,) = ExpertSubset.from_json(subset.read_text()).experts
    assert sum(expert < 8 for expert in kept) == 2 and len(kept) == 4
    result = cut(other_families / "deepseek_v3", subset, out)
    assert result.exit_code == 0 and "MB of weights of" in result.output, result.output
    assert json.loads((out / "config.json").read_text())["n_group"] == 2
    odd = ExpertSubset(((0, 1, 2, 8),), "by hand", (), 4)
    subset.write_text(odd.to_json())
    result = cut(other_families / "deepseek_v3", subset, tmp_path / "odd", "--force")
    assert result.exit_code == 2 and "subset --per-group" in result.output
    how = ("--force", "--same-size=6")
    assert cut(other_families / "deepseek_v3", subset, tmp_path / "odd", *how).exit_code == 0


def test_a_subset_that_is_no_multiple_of_the_groups_is_one_sentence(
    other_families, tmp_path, monkeypatch
):
    many = {"n_routed_experts": 16, "n_group": 8, "num_hidden_layers": 2}
    save_tiny("deepseek_v3", other_families / "many", **many)
    monkeypatch.setattr(LiveFamily, "scores", None)  # it is said before any document is run
    result = choose_of(other_families, "many", tmp_path / "x.json", "--per-group")
    assert result.exit_code == 2 and "must be a multiple of 8" in result.output
    geometry = open_live(other_families / "many").geometry
    check_keep_k(geometry, 16, 8)
    with pytest.raises(ValueError, match="at least 2 of each, not 8"):
        check_keep_k(geometry, 8, 8)
