"""Models of other families than EMO are run live: read, and cut with the right numbers.

What a cut costs is compared with a model that never had the experts: transformers' own, made with
fewer of them from the same weights.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from tiny import save_tiny
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from emo_viz.__main__ import main
from emo_viz.analysis import projection
from emo_viz.analysis.routing import coverage
from emo_viz.analysis.tokens import load_token_clusters
from emo_viz.server import catalogue
from emo_viz.trace import Trace
from emo_viz.ui.ablation import sizes
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import compact
from model.run.live import open_live
from tests.pages.ablation_page import (
    given,
    lines,
    shown_losses,
    slider,
    table,
    words,
    written,
)
from tests.pages.opened import cards, charts, follow_link, heatmaps, losses, run, strips
from tests.uneven import emo_viz, pca_map

ROUTING, ABLATION = "pages/1_Token_routing.py", "pages/3_Subset_ablation.py"
MAPS, CLUSTERS = "analysis/maps.npz", "analysis/clusters-mine.npz"
OPENING = 2
DOMAINS = ("letters", "numbers")
FAMILIES = ("olmoe", "qwen3_moe", "gpt_oss")


def write_documents(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, name in enumerate(("documents", "calibration")):
        rng = np.random.default_rng(part)
        rows = [
            {
                "id": f"{name}-{domain}-{number}",
                "domain": domain,
                "source": "a test",
                "licence": "CC0-1.0",
                "parent": f"{name}-{domain}-{number}",
                "part": 0,
                "text": " ".join(
                    f"w{n}" for n in rng.integers(4 + 46 * place, 50 + 46 * place, 20)
                ),
                "cut_tokens": 0,
            }
            for number in range(2)
            for place, domain in enumerate(DOMAINS)
        ]
        pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet", index=False)


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents, and no model yet."""
    folder = tmp_path / "assets"
    write_documents(folder / "documents")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    return folder


def add(folder: Path, family: str, name: str = "mine", **changes: object) -> nn.Module:
    return save_tiny(family, folder / "checkpoints" / name, **changes)


def ids_of(text: str) -> list[int]:
    return [OPENING, *(int(word[1:]) for word in text.split())]


def texts(folder: Path, name: str, domain: str) -> list[str]:
    table = pd.read_parquet(folder / "documents" / f"{name}.parquet")
    return table[table["domain"] == domain]["text"].tolist()


def logits_of(made: nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return made(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def loss_of(made: nn.Module, ids: list[int]) -> float:
    logits = logits_of(made, ids)
    return float(nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])))


def routers(made: nn.Module) -> list[nn.Module]:
    return [m for n, m in made.named_modules() if re.search(r"\.mlp\.(gate|router)$", n)]


def favourites(made: nn.Module, documents: list[list[int]], keep: int) -> list[list[int]]:
    """Experts of the highest mean softmax of the router's logits after the opening token."""
    heard: dict[int, list[torch.Tensor]] = {}
    for number, router in enumerate(routers(made)):
        router.register_forward_pre_hook(
            lambda _, args, number=number: heard.setdefault(number, []).append(
                args[0].reshape(-1, args[0].shape[-1])[1:]
            )
        )
    for ids in documents:
        logits_of(made, ids)
    kept = []
    for number, router in enumerate(routers(made)):
        logits = torch.cat(heard[number]) @ router.weight.T
        bias = getattr(router, "bias", None)
        probs = (logits if bias is None else logits + bias).softmax(-1).mean(0)
        kept.append(sorted(probs.topk(keep).indices.tolist()))
    return kept


def without(made: nn.Module, kept: list[list[int]]) -> nn.Module:
    """A model that never had the other experts."""
    names = ("num_experts", "num_local_experts")
    fields = made.config.to_dict()
    fields |= {name: len(kept[0]) for name in names if name in fields}
    smaller = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).eval()
    with_router = sorted(
        {int(n.split(".")[2]) for n, _ in made.named_modules() if n.endswith(".mlp.experts")}
    )
    weights = {}
    for name, tensor in made.state_dict().items():
        if ".experts." in name or ".gate." in name or ".router." in name:
            own = kept[with_router.index(int(name.split(".")[2]))]
            tensor = tensor[own]
        weights[name] = tensor
    smaller.load_state_dict(weights)
    return smaller


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_routed_live(assets: Path, family: str) -> None:
    made = add(assets, family)
    at = follow_link(ROUTING, routing_token="3")
    ids = ids_of(texts(assets, "documents", "letters")[0])
    logits = logits_of(made, ids)
    loss = nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
    assert losses(at)[0].startswith(f"{loss[2]:.2f} nats (")
    assert f"Loss in nats a token: {loss.mean():.2f} in mine" in words(at)
    assert len(heatmaps(at)) == 1 and len(strips(at)) == 1
    likeliest = logits[3].softmax(-1).topk(5)
    (shown,) = cards(at)[0]["parts"]
    np.testing.assert_allclose([share for _, share in shown["next"]], likeliest.values, atol=1e-4)
    names = [f"w{number}" for number in likeliest.indices.tolist() if number > 3]
    assert set(names) <= {token for token, _ in shown["next"]}
    first_is_dense = family == "qwen3_moe"
    assert ("the model's own layers 1, 2" in words(at)) == first_is_dense
    numbers = [1, 2] if first_is_dense else [0, 1, 2]
    assert at.segmented_control(key="routing_layer").options == list(map(str, numbers))
    (side,) = heatmaps(at)[0]["sides"]
    assert [layer["number"] for layer in side["layers"]] == numbers[-1:]
    assert f"Mean over {len(numbers)} layers with experts" in words(at)
    at.number_input(key="routing_token").set_value(7)
    assert losses(run(at))[0].startswith(f"{loss[6]:.2f} nats (")


def test_a_page_says_of_a_text_what_its_trace_says(assets: Path) -> None:
    add(assets, "olmoe")
    record(assets, "--level", "tokens")
    recorded = Trace.open(assets / "traces" / "mine").recorded(0)
    at = follow_link(ROUTING, routing_token="5")
    assert losses(at)[0].startswith(f"{recorded.loss[5]:.2f} nats (")
    assert f"Loss in nats a token: {np.nanmean(recorded.loss):.2f} in mine" in words(at)


def test_a_text_of_ones_own_is_read_and_cut_at_the_models_end(assets: Path) -> None:
    made = add(assets, "mixtral")
    text = " ".join(f"w{4 + n % 90}" for n in range(70))
    at = follow_link(ROUTING, routing_source="Your own text")
    at.text_area[0].set_value(text)
    said = words(run(at))
    assert f"Loss in nats a token: {loss_of(made, ids_of(text)[:64]):.2f} in mine" in said
    assert "longer than the models' context: its first 63 tokens are shown" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_costs_what_a_model_without_the_experts_loses(assets: Path, family: str) -> None:
    made = add(assets, family)
    ids = ids_of(texts(assets, "documents", "numbers")[0])
    calibration = [ids_of(text) for text in texts(assets, "calibration", "numbers")]
    full = loss_of(made, ids)
    at = follow_link(ABLATION, subset_domain="numbers", k="5")
    for keep in (5, 4):
        at.session_state["k"] = keep
        cut = without(made, favourites(made, calibration, keep))
        loss = loss_of(cut, ids)
        assert abs(loss - full) > 1e-3
        run(at)
        assert table(at)["mine"][:3] == shown_losses(full, loss)
    assert "No curves over many documents have been measured here" in words(at)
    prompt = torch.tensor([ids[: len(ids) // 2]])
    drawn = {"max_new_tokens": 40, "do_sample": True, "temperature": 0.7, "pad_token_id": 0}
    for keep, model in ((8, made), (4, cut)):
        torch.manual_seed(0)
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), **drawn)[0]
        numbers = [f"w{n}" for n in out[prompt.shape[1] :].tolist() if n > 3]
        shown = written(at, keep)["mine"].split()
        assert [word for word in shown if word.startswith("w")] == numbers


@pytest.mark.parametrize("family", FAMILIES)
def test_single_experts_are_switched_off_by_hand(assets: Path, family: str) -> None:
    made = add(assets, family)
    ids = ids_of(texts(assets, "documents", "numbers")[0])
    kept = [[0, *range(2, 8)] for _ in favourites(made, [ids], 8)]
    own = open_live(assets / "checkpoints" / "mine").own_layers
    switched = ".".join(f"a{layer}x1" for layer in own)
    at = follow_link(ABLATION, subset_domain="numbers", k="8", subset_switched=switched)
    assert table(at)["mine"][:2] == [
        f"{loss_of(each, ids):.3f}" for each in (made, without(made, kept))
    ]


def test_other_ways_to_choose_experts_work_live(assets: Path) -> None:
    made = add(assets, "olmoe")
    text = "w60 w61 w70 w80 w90"
    full = f"{loss_of(made, ids_of(text)):.3f}"
    at = follow_link(ABLATION, subset_document=routes.OWN_DOCUMENT, k="3")
    at.text_area[0].set_value(text)
    for method in ("router_probability", "greedy", "other_domain", "random"):
        at.selectbox(key="subset_method").set_value(method)
        lost = table(run(at))["mine"]
        assert lost[0] == full and lost[1] != full


def test_two_models_of_one_family_stand_side_by_side(assets: Path) -> None:
    models = {name: add(assets, "olmoe", name) for name in ("a", "b")}
    with torch.no_grad():
        models["b"].lm_head.weight.mul_(1.5)
    models["b"].save_pretrained(assets / "checkpoints" / "b")
    ids = ids_of(texts(assets, "documents", "letters")[0])
    losses = {name: loss_of(made, ids) for name, made in models.items()}
    at = follow_link(ROUTING)
    told = ", ".join(f"{loss:.2f} in {name}" for name, loss in losses.items())
    assert f"Loss in nats a token: {told}" in words(at)
    cut = table(follow_link(ABLATION, k="4"))
    assert {name: row[0] for name, row in cut.items()} == {
        name: f"{loss:.3f}" for name, loss in losses.items()
    }


def test_layers_have_the_models_own_numbers_on_every_page(
    assets: Path, everything_open: None
) -> None:
    """Of a model whose first layer has no router, and of one beside it that has one in each."""
    add(assets, "qwen3_moe", "a")
    at = follow_link(ABLATION, k="4")
    at.session_state["subset_importance"] = True
    run(at)
    (ranked,) = [each.value for each in at.dataframe if "Importance (nats a token)" in each.value]
    assert {*ranked["Layer"]} == {1, 2}
    (kept,) = [each for each in charts(at) if each["data"][0]["type"] == "heatmap"]
    assert kept["data"][0]["y"] == ["1", "2"]
    add(assets, "qwen3_moe", "b", mlp_only_layers=[2])
    said = words(follow_link(ROUTING)).replace("\\", "")
    assert "of a these are the model's own layers 1, 2. Layers are matched in their order" in said
    add(assets, "qwen3_moe", "b", mlp_only_layers=[])
    assert "a has 2 layers with experts and b 3" in words(follow_link(ROUTING)).replace("\\", "")


def test_what_is_written_names_the_experts_of_each_run(assets: Path) -> None:
    for name, experts in (("a", 4), ("b", 8)):
        add(assets, "olmoe", name, num_experts=experts)
    runs = given(follow_link(ABLATION, k="3"), "prompt")["runs"]
    assert [each["most"] for each in runs] == ["4", "8"]
    for stop, kept in (("3", ("3", "6")), ("4", ("all 4", "all 8"))):
        for each, words_ in zip(runs, kept, strict=True):
            assert each["said"][stop].startswith(f"writes with {words_} experts: ")


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3", "gpt_oss"])
def test_the_page_counts_what_the_library_counts(assets: Path, family: str) -> None:
    """Of DeepSeek-V3 the biases of the routers too, which are no parameters."""
    add(assets, family)
    counted = catalogue.read_model(assets / "checkpoints" / "mine").parameters
    assert sizes._saved(open_live(assets / "checkpoints" / "mine").model) == counted
    whole = slider(follow_link(ABLATION, k="4"))["facts"]["8"][0][1]
    assert whole == f"{compact(counted)} of {compact(counted)}"


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("nllb-moe", "NLLB-MoE cannot be cut"),
        ("switch_transformers", "mine is an encoder-decoder, which has no loss of a text"),
    ],
)
def test_what_a_family_cannot_do_is_one_line(assets: Path, family: str, why: str) -> None:
    add(assets, family)
    at = follow_link(ROUTING, routing_token="3")
    said = words(at).replace("\\", "")
    assert "mine gives no losses and no next tokens, because" in said
    assert "nan" not in said.replace("nano", "") and losses(at) == [""]
    assert "Loss, mine" not in at.selectbox(key="routing_colour").options
    said = words(follow_link(ABLATION)).replace("\\", "")
    assert said.count(why) == 1


def test_a_model_beside_emo_is_shown_alone(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "assets"
    shutil.copytree(tiny_assets, folder)
    shutil.rmtree(folder / "checkpoints" / "std-nano")
    shutil.rmtree(folder / "traces" / "std-nano")
    (folder / "checkpoints" / "emo-nano").rename(folder / "checkpoints" / "an-emo")
    shutil.rmtree(folder / "traces" / "emo-nano")
    add(folder, "olmoe")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    for page in (ROUTING, ABLATION):
        at = follow_link(page, run="mine")
        assert "have different tokenizers" in words(at) and "in mine" in words(at)


def record(folder: Path, *more: str) -> None:
    documents, checkpoint = folder / "documents" / "documents.parquet", folder / "checkpoints"
    source = ("--model", checkpoint / "mine", "--documents", documents, "--max-tokens", "64")
    emo_viz("record", *source, "--out", folder / "traces" / "mine", *more)


def test_clusters_of_tokens_are_those_of_the_text_that_is_read(assets: Path) -> None:
    """Of a model whose first layer has no router."""
    add(assets, "qwen3_moe")
    record(assets)
    (assets / "analysis").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "umap_map", pca_map)
        emo_viz("map", "--traces", assets / "traces" / "mine", "--out", assets / MAPS)
    source = ("--model", assets / "checkpoints" / "mine", "--max-tokens", "64", "--clusters", "3")
    documents = assets / "documents" / "documents.parquet"
    emo_viz("clusters", *source, "--documents", documents, "--out", assets / CLUSTERS)
    stored = load_token_clusters(assets / CLUSTERS)
    first = Trace.open(assets / "traces" / "mine").documents["id"][0]
    at = follow_link("pages/2_Document_clusters.py", cluster_document=first)
    live = open_live(assets / "checkpoints" / "mine")
    text = texts(assets, "documents", "letters")[0]
    found = stored.assign(live.record(np.array(ids_of(text))).router_probs[:, 1:])
    share = 100 * np.bincount(found).max() / len(found)
    assert len(stored.pca.mean) == 2 * 8
    assert f"of {len(set(found))} clusters holds {share:.0f}" in words(at)
    home = words(follow_link(""))
    half = coverage(Trace.open(assets / "traces" / "mine")).half.mean
    assert f"**{half:.1f}**" in home and "of 8 experts" in home and "2 layers" in home


def test_a_token_that_no_expert_served_is_called_so(assets: Path) -> None:
    add(assets, "switch_transformers", expert_capacity=1)
    record(assets)
    (assets / "analysis").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "umap_map", pca_map)
        emo_viz("map", "--traces", assets / "traces" / "mine", "--out", assets / MAPS)
    first = Trace.open(assets / "traces" / "mine").documents["id"][0]
    shown = {"cluster_level": "Documents", "cluster_document": first}
    at = follow_link("pages/2_Document_clusters.py", **shown)
    assert any("no expert" in each["title"] for each in strips(at)[0]["tokens"])


def test_curves_are_measured_and_shown(assets: Path, everything_open: None) -> None:
    """By the command; each point is the loss of a model that never had the other experts."""
    made = add(assets, "olmoe")
    folder, out = assets / "documents", assets / "analysis" / "curves.parquet"
    out.parent.mkdir()
    given = ("--documents", folder / "documents.parquet", "--out", out, "--keep", "3,5")
    calibration = ("--calibration", folder / "calibration.parquet")
    emo_viz("curves", "--models", assets / "checkpoints" / "mine", *given, *calibration)
    ids = [ids_of(text) for text in texts(assets, "documents", "letters")]
    chosen_on = [ids_of(text) for text in texts(assets, "calibration", "letters")]
    cut = without(made, favourites(made, chosen_on, 5))
    increase = np.mean([loss_of(cut, each) - loss_of(made, each) for each in ids])
    at = follow_link(ABLATION, subset_domain="letters", k="5")
    assert f"nats a token, 95 % interval over documents: {increase:+.3f} (" in words(at)
    assert [stop["keep"] for stop in slider(at)["stops"]] == [3, 5, 8]
    assert any(b.label.startswith("Make the cut checkpoint of mine, about") for b in at.button)
    assert "not measured; " in lines(follow_link(ABLATION, k="4"))["all"]


def test_curves_of_what_cannot_be_cut_are_one_sentence(assets: Path) -> None:
    add(assets, "nllb-moe")
    folder = assets / "documents"
    given = ("--documents", folder / "documents.parquet", "--out", assets / "curves.parquet")
    calibration = ("--calibration", folder / "calibration.parquet")
    arguments = ("curves", "--models", assets / "checkpoints" / "mine", *given, *calibration)
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 2 and "NLLB-MoE cannot be cut" in result.output


def test_a_model_too_large_for_the_machine_shows_its_recording(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(assets, "olmoe")
    record(assets)
    monkeypatch.setattr("model.families.sizes.available_memory", lambda device: 1000)
    at = follow_link(ROUTING)
    said = words(at).replace("\\", "")
    assert "in float32 and cpu has" in said and "half of this text's routing goes to" in said
    assert len(charts(at)) == 1


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3"])
def test_a_model_of_any_family_differs_from_itself_in_another_type(family: str, assets: Path):
    add(assets, family)
    at = follow_link("pages/7_Routing_difference.py")
    assert not at.exception and not at.error
    said = words(at).replace("\\", "").replace("*", "")
    shared = re.search(r"mine in float32 and mine in bfloat16 choose ([\d.]+) %", said)
    assert shared is not None and 50 < float(shared[1]) <= 100
