"""Pins: kept from page to page and in the address, two of them side by side with true numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emo_viz.runs.record import Options, record
from emo_viz.ui.parts import pins
from emo_viz.ui.parts.pins import Pin
from model.run.inference import encode
from model.run.inference import record as record_text
from model.run.loading import load_tokenizer
from tests.pages.opened import follow_link, run, texts

PAGE = "pages/10_Search.py"
COMPARING = "Compare pins"
ONE, OTHER = "heldout-court-1", "heldout-garden-2"


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets."""


def compared(*codes: str, **params: str):
    return follow_link(PAGE, search_view=COMPARING, pins=list(codes), **params)


def headline(at) -> str:
    return next(part.value for part in at.markdown if part.value.startswith("## "))


@pytest.fixture
def recorded(tiny_assets: Path, models):
    """By run, the routing of both documents."""
    table = pd.read_parquet(tiny_assets / "documents" / "documents.parquet").set_index("id")
    tokenizer = load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")
    ids = [encode(tokenizer, table.loc[name, "text"], 500).token_ids for name in (ONE, OTHER)]
    return {name: [record_text(model, each) for each in ids] for name, model in models.items()}


@pytest.mark.parametrize(
    "pin", [Pin("a.b:c"), Pin("d.d", None, 12), Pin(None, "t. x\ny", 3), Pin(None, "~z.abc")]
)
def test_a_pin_is_its_code(pin: Pin):
    assert pins.parse(pin.code) == pin


@pytest.mark.parametrize("code", ["", "x.a", "0.d.a", "d.", "1.2.d", "-1.d.a", "٣.d.a"])
def test_another_text_is_no_pin(code: str):
    with pytest.raises(ValueError):
        pins.parse(code)


def test_without_pins_the_page_says_how_to_pin():
    assert "Nothing is pinned" in headline(follow_link(PAGE, search_view=COMPARING))
    assert "Pin another token" in headline(compared(f"3.d.{ONE}", f"d.{OTHER}"))


def test_of_mixed_pins_two_of_one_sort_stand_side_by_side():
    mixed = (f"3.d.{ONE}", f"d.{ONE}", f"d.{OTHER}")
    at = compared(*mixed)
    assert "two texts share" in headline(at)
    at.selectbox(key="pin_left").set_value(mixed[0])
    assert "Pin another token" in headline(run(at))
    assert "The 2 documents and texts can be compared" in texts(at)


def test_a_pin_that_is_not_here_leaves_the_others_to_compare():
    codes = ("d.nobody", f"d.{ONE}", "t.~z.x", f"d.{OTHER}")
    at = compared(*codes)
    assert "two texts share" in headline(at)
    assert [each.value for each in at.info if "is not here" in each.value]
    assert [each.value for each in at.info if "cut off" in each.value]
    finding = follow_link(PAGE, pins=list(codes))
    assert "The pinned document nobody is not here." in [each.value for each in finding.info]


def test_how_many_are_pinned_is_in_sight_and_a_press_compares_them():
    at = follow_link(PAGE, search_text="soil", pins=[f"d.{ONE}", f"d.{OTHER}"])
    view = at.button_group(key="search_view")
    assert view.options == ["Find", "Compare pins (2)"]
    view.set_value(COMPARING)
    assert "two texts share" in headline(run(at))


def test_two_tokens_share_what_the_models_say(recorded):
    at = compared(f"5.d.{ONE}", f"9.d.{OTHER}")
    for name, (one, other) in recorded.items():
        shared = [
            len({*a} & {*b}) / len({*a} | {*b})
            for a, b in zip(one.expert_ids[:, 5], other.expert_ids[:, 9], strict=True)
        ]
        mean = 100 * np.mean(shared)
        said = f"{mean:.1f} %" if mean < 10 else f"{mean:.0f} %"
        assert f"**{said}** in {'EMO' if name == 'emo-nano' else 'Standard'}" in headline(at)
        assert f"**{one.loss[5]:.2f}** in" in texts(at)
    moved = compared(f"6.d.{ONE}", f"9.d.{OTHER}")
    assert f"**{recorded['emo-nano'][0].loss[6]:.2f}** in EMO" in texts(moved)


def test_two_documents_share_their_routing(recorded):
    at = compared(f"d.{ONE}", f"d.{OTHER}")
    one, other = recorded["emo-nano"]
    shares = [
        [np.bincount(ids[1:].ravel(), minlength=15) / ids[1:].size for ids in each.expert_ids]
        for each in (one, other)
    ]
    mean = 100 * np.mean(np.minimum(*shares).sum(axis=1))
    assert f"**{mean:.0f} %** in EMO" in headline(at)
    assert len(at.dataframe) == 2


def test_an_own_text_beside_a_document_and_escaped():
    at = compared("t.the *soil* and <b>seeds</b>", f"d.{ONE}")
    assert "two texts" in headline(at) and r"\<b\>" in texts(at)


def test_tokens_of_other_scripts_have_their_bytes_and_their_order_of_reading():
    at = compared("2.t.नमस्ते", "3.t.سلام عليكم (1)")
    assert "… न :grey-background[**⟨A4⟩ of न**] मस्ते" in texts(at)
    (arabic,) = [each.value for each in at.markdown if "عليكم" in each.value and "…" in each.value]
    assert arabic.startswith("\u2067… ") and arabic.endswith(r"عليكم \(1\) …" + "\u2069")
    title = "Token 3 of your text “\u2068سلام عليكم {}\u2069”"
    assert f"**{title.format(chr(92) + '(1' + chr(92) + ')')}**" in texts(at)
    assert f"2. {title.format('(1)')}" in at.selectbox(key="pin_right").options


@pytest.mark.parametrize(
    ("code", "said"),
    [("d.nobody", "is not here"), ("t.~z.x", "cut off")],
)
def test_a_pin_that_is_not_here_is_said(code: str, said: str):
    assert said in texts(compared(code, f"d.{ONE}"))


def test_of_a_token_beyond_its_text_the_last_is_shown_and_said(recorded):
    tokens = recorded["emo-nano"][0].expert_ids.shape[1] - 1
    at = compared(f"999.d.{ONE}", f"9.d.{OTHER}")
    (said,) = [each.value for each in at.warning]
    assert f"The pinned token 999 is beyond the {tokens} tokens read of" in said
    last = compared(f"{tokens}.d.{ONE}", f"9.d.{OTHER}")
    assert not last.warning and headline(at) == headline(last)
    assert f"**Token {tokens} of" in texts(at)


def test_a_found_line_is_pinned_and_stays_in_session_and_address():
    at = follow_link(PAGE, pins=[f"d.{ONE}"])
    at.session_state[pins.KEY] = [*at.session_state[pins.KEY], f"d.{OTHER}"]
    run(at)
    assert at.query_params["pins"] == [f"d.{ONE}", f"d.{OTHER}"]
    at.query_params.clear()
    at.switch_page("pages/4_Kernel.py")
    run(at)
    at.query_params.clear()
    at.query_params["search_view"] = COMPARING
    at.switch_page(PAGE)
    assert "two texts" in headline(run(at))
    at.button(key="search_unpin").click()
    assert "Nothing is pinned" in headline(run(at))


def test_a_recording_without_weights_is_enough(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    live = headline(compared(f"5.d.{ONE}", f"9.d.{OTHER}", b="none"))
    documents = pd.read_parquet(tiny_assets / "documents" / "documents.parquet")
    checkpoint = str(tiny_assets / "checkpoints" / "emo-nano")
    record(checkpoint, documents, tmp_path / "traces" / "emo-nano", Options(level="tokens"))
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path))
    assert headline(compared(f"5.d.{ONE}", f"9.d.{OTHER}")) == live
    beyond = compared(f"5.d.{ONE}", f"999.d.{OTHER}")
    assert "two tokens" in headline(beyond) and "is beyond the" in beyond.warning[0].value
    assert "there is none" in texts(compared(f"5.d.{ONE}", "9.d.nobody"))


def test_token_routing_pins_its_document_its_token_and_an_own_text():
    at = follow_link("pages/1_Token_routing.py", routing_doc=ONE)
    assert not [each for each in at.button if each.key == "routing_pin_token"]
    at.number_input(key="routing_token").set_value(5)
    run(at)
    at.button(key="routing_pin_token").click()
    run(at).button(key="routing_pin").click()
    assert run(at).session_state[pins.KEY] == [f"5.d.{ONE}", f"d.{ONE}"]
    at.button(key="routing_pin").click()
    assert run(at).session_state[pins.KEY] == [f"5.d.{ONE}"]
    own = follow_link(
        "pages/1_Token_routing.py", routing_source="Your own text", routing_text="soil and rain"
    )
    own.button(key="routing_pin").click()
    assert run(own).session_state[pins.KEY] == ["t.soil and rain"]
