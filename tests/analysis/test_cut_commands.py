"""python -m emo_viz subset and cut: from a domain's documents to a checkpoint of its experts."""

import json

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from emo_viz.__main__ import main
from model.inference import encode
from model.loading import load_model, load_tokenizer
from model.subset import ExpertSubset, apply_subset, select_experts


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


def cut(model, subset, out):
    return CliRunner().invoke(
        main, ["cut", f"--model={model}", f"--subset={subset}", f"--out={out}"]
    )


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
    assert ExpertSubset.from_json((tmp_path / "kitchen.json").read_text()) == expected


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
        ({"out": "/dev/null/x.json"}, "cannot be written"),
        ({"model": "nowhere"}, "There is no checkpoint at nowhere"),
    ],
)
def test_a_choice_that_cannot_be_made_is_one_sentence(choose, tmp_path, changes, sentence):
    result = choose(**changes)
    assert result.exit_code == 2
    assert sentence in result.output and result.stderr.count("Error") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, "{", json.dumps({"experts": [[0, 1]]})])
def test_a_file_that_is_no_subset_is_one_sentence(tiny_assets, tmp_path, content):
    file = tmp_path / "subset.json"
    if content is not None:
        file.write_text(content)
    result = cut(tiny_assets / "checkpoints" / "emo-nano", file, tmp_path / "small")
    assert result.exit_code == 2
    assert "subset" in result.stderr and result.stderr.count("Error") == 1
    assert not (tmp_path / "small").exists()
