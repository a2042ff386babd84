"""The subset ablation page on a text of the visitor's own, and the links to and from it."""

from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.analysis import ablation as measuring
from emo_viz.analysis.curves import Curves
from emo_viz.server import assets
from emo_viz.ui.ablation import live
from model.run.inference import Continuation, encode, record
from model.run.loading import load_tokenizer
from tests.pages.ablation_page import (
    PAGE,
    given,
    lines,
    losses,
    opened,
    shown_losses,
    table,
    words,
)
from tests.pages.opened import follow_link, run, strips

OWN = "bake the flour and the butter in an oven"


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets."""


def own_choice(folder: Path, curves: Curves, models: dict, domain: str, k: int) -> dict:
    """The losses of OWN without EOS in both models, whole and with the domain's experts."""
    tokenizer = load_tokenizer(folder / "checkpoints" / "emo-nano")
    token_ids = encode(tokenizer, OWN, 256).token_ids
    ids = tuple(curves.info["domains"][domain]["calibration"])
    found = {}
    for name, model in models.items():
        ranking = np.asarray(curves.info["ranking"][name][domain])
        subset = measuring.ranked_subset(ranking, k, model.config, ids)
        found[name] = (losses(model, token_ids), losses(model, token_ids, subset))
    return found


@pytest.mark.parametrize("domain", ["court", "kitchen"])
def test_a_text_of_ones_own_is_cut_to_the_chosen_domains_experts(
    tiny_assets, curves, models, domain
):
    at = opened(subset_domain=domain, subset_document="own", subset_text=OWN, k="6")
    expected = own_choice(tiny_assets, curves, models, domain, 6)
    for name, label in (("emo-nano", "EMO"), ("std-nano", "Standard MoE")):
        full, cut = (values.mean() for values in expected[name])
        assert table(at)[label][:3] == shown_losses(full, cut)
    assert f"Its experts are those of **{domain}**, as chosen above." in words(at)
    assert "".join(token["text"] for token in strips(at)[0]["tokens"]) == OWN


def nearest_to(folder: Path, curves: Curves, models: dict, text: str) -> str:
    """The domain whose three favourite experts a layer EMO uses most on the text."""
    tokenizer = load_tokenizer(folder / "checkpoints" / "emo-nano")
    probs = record(models["emo-nano"], encode(tokenizer, text, 256).token_ids).router_probs.mean(1)
    held = {
        domain: sum(probs[layer, ids[:3]].sum() for layer, ids in enumerate(ranking))
        for domain, ranking in curves.info["ranking"]["emo-nano"].items()
    }
    return max(held, key=held.__getitem__)


def test_without_a_domain_a_text_gets_the_nearest_ones_experts(tiny_assets, curves, models):
    texts = [OWN, "judge clause appeal witness ruling", "tide rope anchor crane", "soil seeds"]
    nearest = {text: nearest_to(tiny_assets, curves, models, text) for text in texts}
    assert len(set(nearest.values())) > 1
    for text, domain in nearest.items():
        at = opened(subset_document="own", subset_text=text, k="6")
        assert f"Its experts are those of **{domain}**, whose favourites" in words(at)
    expected = own_choice(tiny_assets, curves, models, nearest[OWN], 6)["emo-nano"]
    at = opened(subset_document="own", subset_text=OWN, k="6")
    assert table(at)["EMO"][1] == f"{expected[1].mean():.3f}"


def test_another_text_lets_the_chosen_token_go():
    at = opened(subset_document="own", subset_text=OWN, subset_token="2")
    assert given(at, "palette")["selected"] == 2
    at.text_area(key="subset_draft").set_value("tide rope anchor crane").run()
    assert not at.exception and given(at, "palette")["selected"] is None
    assert "subset_token" not in at.query_params


def test_a_text_typed_stays_in_the_address_and_another_document_takes_it_out():
    at = opened(subset_document="own")
    assert "No text yet" in words(at) and not table(at)
    at.text_area(key="subset_draft").set_value(OWN).run()
    assert not at.exception and table(at)
    assert at.query_params["subset_text"] == OWN
    at.button(key="subset_next").click().run()
    assert "subset_text" not in at.query_params
    assert at.query_params["subset_document"] == "heldout-garden-0"
    assert "heldout-garden-volume-0, " in lines(at)["document"]
    assert "Its experts are" not in words(at)


def test_a_text_too_long_says_what_was_left_out(tiny_assets):
    tokenizer = load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")
    text = "anchor rope " * 400
    at = opened(subset_document="own")
    at.text_area(key="subset_draft").set_value(text).run()
    dropped = encode(tokenizer, text, 256).dropped
    assert "255 tokens" in words(at) and f"{dropped:,}" in words(at)


def test_markup_in_a_text_of_ones_own_is_text():
    at = opened(subset_document="own", subset_text="<script>alert(1)</script> & salt")
    shown = "".join(token["text"] for token in strips(at)[0]["tokens"])
    assert shown == "<script>alert(1)</script> & salt"
    assert "<script>" not in words(at)


def links_of(at) -> dict[str, dict[str, list[str]]]:
    """The links to other pages by label, and what each asks for there."""
    return {link.proto.label: parse_qs(link.proto.query_string) for link in at.get("page_link")}


def test_a_text_can_be_taken_to_the_page_of_its_routing_and_back():
    there = links_of(opened(subset_document="own", subset_text=OWN))["Token routing of this text"]
    assert there == {"routing_source": ["Your own text"], "routing_text": [OWN]}
    routing = follow_link("pages/1_Token_routing.py", **there)
    assert routing.text_area(key="routing_draft").value == OWN
    assert links_of(routing)["Cut the models on this text"] == {
        "subset_document": ["own"],
        "subset_text": [OWN],
    }
    document = opened(subset_domain="court", subset_token="4")
    assert links_of(document)["Token routing of this text"] == {
        "routing_doc": ["heldout-court-0"],
        "routing_token": ["4"],
    }


def test_a_long_text_can_be_taken_to_the_other_page_too():
    at = opened(subset_document="own")
    at.text_area(key="subset_draft").set_value("anchor rope " * 400).run()
    there = links_of(at)["Token routing of this text"]
    assert len(there["routing_text"][0]) < 200
    routing = follow_link("pages/1_Token_routing.py", **there)
    assert routing.text_area(key="routing_draft").value == "anchor rope " * 400


@pytest.mark.parametrize(
    ("page", "earlier", "asked"),
    [
        (PAGE, {"subset_domain": "court"}, "subset_document"),
        ("pages/1_Token_routing.py", {"routing_domain": "court"}, "routing_doc"),
        ("pages/1_Token_routing.py", {"routing_source": "Your own text"}, "routing_doc"),
    ],
)
def test_a_link_to_a_document_is_followed_whatever_was_chosen_before(page, earlier, asked):
    at = AppTest.from_file(assets.APP_FOLDER / "app.py", default_timeout=600)
    at.switch_page(page)
    for key, value in earlier.items():
        at.session_state[key] = value
    at.query_params[asked] = "heldout-garden-2"
    run(at)
    said = words(at).replace("\\", "")
    shown = lines(at)["document"] if page == PAGE else said
    assert "heldout-garden-volume-2" in shown and "The link asks" not in said


def test_models_go_on_after_a_whole_letter_of_a_text_from_right_to_left(tiny_assets, monkeypatch):
    prompts: list[np.ndarray] = []

    def continued(loaded, prompt_ids, experts):
        prompts.append(prompt_ids)
        return Continuation("", True)

    monkeypatch.setattr(live, "continuation", continued)
    tokenizer = load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")
    at = opened(subset_document="own", subset_text="שלום", k="6")
    prompt = given(at, "prompt")
    assert tokenizer.decode(prompts[-1], skip_special_tokens=True) == prompt["prompt"] == "של"
    assert prompt["direction"] == "rtl"


@pytest.mark.parametrize(
    ("text", "code"), [("def bake(oven):\n    return oven", True), (OWN, False)]
)
def test_code_and_what_is_written_after_it_have_letters_of_one_width(text: str, code: bool):
    at = opened(subset_document="own", subset_text=text, k="6")
    assert given(at, "palette")["code"] is given(at, "prompt")["code"] is code
