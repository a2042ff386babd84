"""The subset ablation page: every number is what the models give, whatever the visitor asks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.curves import ROUTER_PROBABILITY, Measured, read_curves
from emo_viz.figures import theme
from emo_viz.server import library
from emo_viz.ui.ablation import live, tokens, writing
from emo_viz.ui.shell.words import compact, share
from model.run.inference import Continuation, continue_text, encode
from model.run.loading import load_tokenizer
from model.run.selection import select_experts
from model.run.subset import apply_subset, random_subset
from tests.pages.ablation_page import (
    given,
    lines,
    losses,
    move,
    opened,
    shown_losses,
    slider,
    table,
    words,
    written,
)
from tests.pages.opened import run, strips

SECONDS = 600


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets."""


def tokens_of(assets: Path, name: str, folder: str = "emo-nano") -> list[np.ndarray]:
    """Token ids of every text of one domain: heldout-garden, calibration-court, ..."""
    part, domain = name.split("-")
    file = {"heldout": "documents", "calibration": "calibration"}[part]
    rows = pd.read_parquet(assets / "documents" / f"{file}.parquet")
    tokenizer = load_tokenizer(assets / "checkpoints" / folder)
    texts = rows.loc[rows["domain"] == domain, "text"]
    return [encode(tokenizer, text, 256).token_ids for text in texts]


def kept(increase: float) -> str:
    return share(np.exp(-increase)).replace(" ", "\u00a0")


def test_the_first_line_is_the_measured_curve(curves):
    at = opened(subset_domain="garden", k="8")
    found = Measured.of(curves.of_domain("garden"))
    emo, standard = (found.increase(m, ROUTER_PROBABILITY, 8) for m in ("emo-nano", "std-nano"))
    assert lines(at)["all"] == (
        "All documents of garden: with 8 of 16 experts, likelihood kept: "
        f"EMO {kept(emo.mean)}, Standard MoE {kept(standard.mean)}. "
        f"6 held-out documents, {found.tokens:,} tokens."
    )
    assert f"{emo.mean:+.3f} ({emo.low:+.3f} to {emo.high:+.3f}) in EMO" in words(at)
    said = f"With all experts, in nats a token: {found.full_loss('emo-nano').mean:.3f} in EMO, "
    assert said in words(at)


def test_all_domains_are_the_default_and_averaged(curves):
    at = opened(k="4")
    found = Measured.of(curves.rows)
    said = f"24 held-out documents of 4 domains, {found.tokens:,} tokens."
    assert lines(at)["all"].endswith(said)


def test_the_curve_is_what_was_measured_with_its_intervals(curves):
    found, given = Measured.of(curves.rows), slider(opened(k="8"))
    assert [stop["keep"] for stop in given["stops"]] == [4, 8, 16]
    for own, name in zip(given["runs"], ("emo-nano", "std-nano"), strict=True):
        for keep_k, point in zip((4, 8), own["points"], strict=False):
            span = found.increase(name, ROUTER_PROBABILITY, keep_k)
            assert point[0] == keep_k
            assert point[1:4] == pytest.approx([span.mean, span.low, span.high], abs=1e-4)
        assert own["points"][-1][:2] == [16, 0]
        low, high = given["range"]
        assert all(low <= value <= high for each in own["random"] for value in each[1:4])


def test_every_notch_has_the_loss_of_its_subset_without_another_run(tiny_assets, models):
    at = opened(subset_domain="harbour", k="8")
    own = tokens_of(tiny_assets, "calibration-harbour")
    document = tokens_of(tiny_assets, "heldout-harbour")[0]
    for keep_k in (4, 8):
        for name, label in (("emo-nano", "EMO"), ("std-nano", "Standard MoE")):
            full = losses(models[name], document)
            cut = losses(models[name], document, select_experts(models[name], own, keep_k))
            change, worse = cut - full, int((cut - full > 0.1).sum())
            assert table(at, keep_k)[label] == [
                *shown_losses(full.mean(), cut.mean()),
                share(worse / len(full)),
            ]
            assert f"{label} {kept(change.mean())}" in lines(at, keep_k)["document"]


def test_the_two_lines_never_change_what_they_are_of(curves):
    at = move(opened(subset_domain="harbour", k="8"), 6)
    for stop in (4, 6, 8, 16):
        said = lines(at, stop)
        assert said["all"].startswith(f"All documents of harbour: with {stop} of 16 experts")
        assert said["document"].startswith("This document: likelihood kept:")


def test_between_the_notches_the_document_is_run_and_the_nearest_points_are_given(
    tiny_assets, models, curves
):
    at = opened(subset_domain="harbour", k="6")
    found = Measured.of(curves.of_domain("harbour"))
    near = [
        f"with {k}: EMO {kept(found.increase('emo-nano', ROUTER_PROBABILITY, k).mean)}"
        for k in (4, 8)
    ]
    said = lines(at)["all"]
    assert "not measured; " in said and all(each in said for each in near)
    own = tokens_of(tiny_assets, "calibration-harbour")
    document = tokens_of(tiny_assets, "heldout-harbour")[0]
    cut = losses(models["emo-nano"], document, select_experts(models["emo-nano"], own, 6))
    assert table(at)["EMO"][1] == f"{cut.mean():.3f}"
    assert "no measured point at 6" in words(at)


def test_the_table_below_the_slider_counts_what_is_kept(models):
    rows = slider(opened(k="8"))["facts"]
    model = models["emo-nano"]
    config, whole = model.config, sum(weight.numel() for weight in model.parameters())
    expert = 3 * config.hidden_size * config.intermediate_size + config.hidden_size
    kept_8 = whole - config.num_hidden_layers * 8 * expert
    assert rows["8"][0][:2] == ["Each run", f"{compact(kept_8)} of {compact(whole)}"]
    assert rows["16"][0][3] == "1.00 times"


def test_the_method_decides_which_experts_stay(tiny_assets, models):
    at = opened(subset_domain="court", k="5")
    document = tokens_of(tiny_assets, "heldout-court")[0]
    other = read_curves(tiny_assets / "analysis" / "curves.parquet").info["domains"]["court"][
        "other"
    ]
    model = models["emo-nano"]
    expected = {
        "random": random_subset(model.config, 5, 0),
        "greedy": select_experts(model, tokens_of(tiny_assets, "calibration-court"), 5, "greedy"),
        "other_domain": select_experts(model, tokens_of(tiny_assets, f"calibration-{other}"), 5),
    }
    for method, subset in expected.items():
        at.selectbox(key="subset_method").set_value(method)
        shown = table(run(at))["EMO"][1]
        assert shown == f"{losses(model, document, subset).mean():.3f}", method


def test_a_stored_greedy_subset_is_the_greedy_subset(tiny_assets, models):
    at = opened(subset_domain="court", k="8", subset_method="Greedy, layer by layer")
    own = tokens_of(tiny_assets, "calibration-court", "std-nano")
    document = tokens_of(tiny_assets, "heldout-court", "std-nano")[0]
    model = models["std-nano"]
    cut = losses(model, document, select_experts(model, own, 8, "greedy"))
    assert table(at)["Standard MoE"][1] == f"{cut.mean():.3f}"


def test_with_all_experts_nothing_changes():
    at = opened(k="16")
    for cells in table(at).values():
        assert cells[2] == "+0.000" and cells[3] == "0.0 %"
    assert "EMO 100\u00a0%" in lines(at)["all"]
    for shown in given(at, "prompt")["runs"]:
        (said,) = shown["said"].values()
        assert said.startswith("writes with all 16 experts: ")


@pytest.mark.parametrize("asked", ["3", "17", "-8", "many", "8.5"])
def test_an_impossible_keep_k_is_one_clear_sentence(asked):
    at = opened(k=asked)
    (warning,) = at.warning
    assert "a subset keeps 4 (what each token uses) to 16 of them" in warning.value
    assert 4 <= slider(at)["position"] <= 16


def test_a_possible_keep_k_is_not_warned_of():
    assert not opened(k="4").warning


def test_documents_are_walked_and_named():
    at = opened(subset_domain="kitchen", k="8")
    assert at.button(key="subset_previous").disabled
    at.button(key="subset_next").click()
    run(at)
    assert at.query_params["subset_document"] == "heldout-kitchen-1"
    assert r"heldout\-kitchen\-1" in words(at)
    again = opened(subset_domain="kitchen", k="8", subset_document="heldout-kitchen-1")
    assert table(again) == table(at)


def test_a_document_that_is_not_there_is_named():
    at = opened(subset_domain="kitchen", subset_document="heldout-garden-1")
    assert "document heldout\\-garden\\-1, which is not here" in at.warning[0].value


def test_a_domain_or_method_that_is_not_there_is_named():
    said = words(opened(subset_domain="atlantis", subset_method="By magic"))
    assert "asks for the domain atlantis" in said and "asks for the method By magic" in said
    assert "The link asks" not in words(opened(subset_domain="garden", subset_method="Random"))


def test_the_token_of_a_link_is_shown_until_another_document_is_opened():
    at = opened(subset_token="3")
    assert given(at, "palette")["selected"] == 3 and at.query_params["subset_token"] == "3"
    at.button(key="subset_next").click()
    run(at)
    assert given(at, "palette")["selected"] is None and "subset_token" not in at.query_params


@pytest.mark.parametrize("asked", ["0", "100000", "-1", "²", "x"])
def test_a_token_beyond_the_text_is_named_and_ignored(asked):
    at = opened(subset_token=asked)
    assert given(at, "palette")["selected"] is None and "asks for the token" in words(at)


def test_grey_is_explained_only_where_it_is_drawn():
    assert "Grey:" in words(opened())
    assert "Grey:" not in words(opened(subset_method="Random"))


def test_each_token_has_its_losses_at_every_notch(tiny_assets, models):
    document = tokens_of(tiny_assets, "heldout-garden")[0]
    own = tokens_of(tiny_assets, "calibration-garden")
    runs = given(opened(subset_domain="garden", k="6"), "palette")["runs"]
    for shown, model in zip(runs, models.values(), strict=True):
        assert shown["full"] == pytest.approx(losses(model, document).tolist(), abs=0.006)
        for keep_k in (4, 6, 8):
            cut = losses(model, document, select_experts(model, own, keep_k))
            assert shown["cut"][str(keep_k)] == pytest.approx(cut.tolist(), abs=0.006)


def test_colours_go_from_better_to_worse_and_leave_the_text_readable():
    palette = [tuple(map(float, colour[5:-1].split(","))) for colour in tokens.palette()]
    for end, colour in ((palette[0], theme.BETTER), (palette[-1], theme.WORSE)):
        assert end[:3] == tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    assert palette[len(palette) // 2][3] < 0.1
    for page, text in ((255, 0x13), (0x17, 0xE7)):  # of config.toml, rounded to the worse
        for red, green, blue, alpha in palette:
            fill = [alpha * c + (1 - alpha) * page for c in (red, green, blue)]
            assert contrast(fill, [text] * 3) >= 4.5


def test_the_legend_names_the_colours_that_are_drawn():
    hint = given(opened(), "palette")["hint"].lower()
    assert f"{theme.WORSE_NAME}, underlined" in hint and f"{theme.BETTER_NAME}, dotted" in hint


def contrast(one: list[float], other: list[float]) -> float:
    """Of two colours, as WCAG counts it."""

    def luminance(colour: list[float]) -> float:
        shares = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_markup_in_a_document_stays_text():
    at = opened(subset_domain="garden", k="8")
    for element in [*at.markdown, *at.caption, *at.get("html")]:
        value = element.value if hasattr(element, "value") else element.proto.body
        assert "onclick" not in value
    shown = "".join(token["text"] for token in strips(at)[0]["tokens"])
    assert shown.startswith("<b onclick='alert(1)'>")


def test_each_model_goes_on_with_and_without_the_cut(tiny_assets, models):
    at = opened(subset_domain="kitchen", k="5")
    document = tokens_of(tiny_assets, "heldout-kitchen")[0]
    prompt = document[: len(document) // 2]
    assert f"first {len(prompt) - 1} tokens" in words(at)
    for name, label in (("emo-nano", "EMO"), ("std-nano", "Standard MoE")):
        own = tokens_of(tiny_assets, "calibration-kitchen", name)
        tokenizer = load_tokenizer(tiny_assets / "checkpoints" / name)
        drawn = (prompt, live.NEW_TOKENS, live.TEMPERATURE, live.SEED)
        with apply_subset(models[name], select_experts(models[name], own, 5)):
            text = continue_text(models[name], tokenizer, *drawn)
        assert written(at, 5)[label] == writing.visible_lines(text)
        whole = continue_text(models[name], tokenizer, *drawn)
        assert written(at, 16)[label] == writing.visible_lines(whole)
        (run_,) = [each for each in given(at, "prompt")["runs"] if each["label"] == label]
        assert run_["whole"] == writing.visible_lines(whole), "to be compared with"
        own = losses(models[name], np.array([*prompt, *text.token_ids]))[len(prompt) - 1 :]
        costs = [loss for _, loss in run_["texts"]["5"]["parts"]]
        assert max(costs) == pytest.approx(max(own), abs=0.006), "with all experts, not with five"
        unlikely = sum(loss >= writing.UNLIKELY for loss in own)
        assert run_["said"]["5"].endswith(f": {unlikely} of {len(own)} tokens unlikely")
        assert run_["texts"]["16"]["parting"] is None and run_["texts"]["5"]["parting"] is not None


@pytest.mark.parametrize(
    ("text", "ended", "shown"),
    [
        ("until it is cr", False, "until it is cr\u00a0…"),
        ("Serve hot.", False, "Serve hot.\u00a0…"),
        ("2 cups flour\n1 egg", True, "2 cups flour\n1 egg"),
        ("", True, writing.NOTHING),
    ],
)
def test_a_text_that_was_cut_says_that_it_goes_on(text: str, ended: bool, shown: str):
    assert writing.visible_lines(Continuation(text, ended)) == shown


def test_the_other_notches_are_written_once_the_slider_plays():
    at = opened(subset_domain="kitchen", k="8")
    assert not written(at, 4)["EMO"]
    assert given(at, "prompt")["waiting"] == writing.ONCE_LET_GO
    at.session_state["subset_played"] = True
    assert written(run(at), 4)["EMO"]
    assert given(at, "prompt")["waiting"] == writing.WRITING, "nobody holds the slider"


def told(*pieces: str) -> Continuation:
    """A text of which each piece is a token of its own."""
    ids = [sum(piece.encode()) for piece in pieces]
    return Continuation("".join(pieces), True, tuple(ids), pieces)


@pytest.mark.parametrize(
    ("other", "place"),
    [
        (told("  add", "\n", "salt"), None),
        (told("  add", "\n", "sugar"), 1),
        (told("stir"), 0),
        (told("  add"), 1),
        (told("  add", "\n", "salt", "."), 2),
    ],
    ids=["nowhere", "inside", "at once", "where the other ends", "where it ends"],
)
def test_a_bar_stands_where_a_text_parts_from_that_of_all_experts(other, place):
    one = writing.Written(told("  add", "\n", "salt"), np.array([0.5, 6, 0.25]))
    whole = writing.Written(other, np.zeros(len(other.token_ids)))
    found = writing.parted(one, whole)
    assert found["parts"] == [("add", 0.5), ("\nsalt", 6), ("", 0)], "a break is one with the next"
    assert found["parting"] == place and one.unlikely == 1


def test_the_other_domain_is_named(curves):
    other = curves.info["domains"]["garden"]["other"]
    said = words(opened(subset_domain="garden", subset_method="Another domain's experts"))
    assert f"calibration documents of another domain ({other})" in said


def test_loss_and_its_increase_are_two_views(curves):
    found = Measured.of(curves.rows)
    given = slider(opened(k="8", subset_view="Loss"))
    assert "Held-out loss" in given["y_title"]
    assert given["runs"][0]["points"][-1][1] == pytest.approx(
        found.full_loss("emo-nano").mean, abs=1e-4
    )
    assert "asks for the curve By magic" in words(opened(subset_view="By magic"))


def test_the_command_that_cuts_names_the_file_of_the_subset_in_view(everything_open: None):
    for k in (4, 8):
        at = opened(subset_domain="garden", k=str(k))
        (command,) = [code.value for code in at.code if "emo_viz cut" in code.value]
        name = f"emo-nano-garden-router_probability-{k}"
        assert command.endswith(f"--subset {name}.json --out {name}")


def test_a_subset_says_for_which_domain_it_is_chosen(everything_open: None):
    assert "chosen for **kitchen**" in words(opened(subset_document="heldout-kitchen-1"))
    assert "chosen for" not in words(opened(subset_method="Random"))


def test_a_document_says_what_of_it_was_left_out(monkeypatch):
    documents = library.documents().assign(cut_tokens=1234)
    monkeypatch.setattr(library, "documents", lambda: documents)
    assert "1,234 tokens" in words(opened(subset_domain="garden"))
