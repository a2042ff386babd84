"""The page Routing difference: one thing changed, the right number changes; what lacks is said."""

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.analysis.difference import (
    Difference,
    RoutedDocument,
    compare,
    compare_pairs,
    matched,
    token_difference,
)
from emo_viz.analysis.matching import matched_by_use
from emo_viz.figures import theme
from emo_viz.runs.import_trace import Known, import_trace
from emo_viz.trace import Trace
from emo_viz.ui.difference import page, view
from emo_viz.ui.parts import export
from model.run.inference import encode, record
from model.run.loading import load_model, load_tokenizer
from tests.pages.opened import (
    cards,
    cells,
    charts,
    follow_link,
    heatmaps,
    looks,
    numbers,
    run,
    strips,
)
from tests.uneven import emo_viz, shown

PAGE = "pages/7_Routing_difference.py"
WEIGHTS = "Gate weights and losses"
PAIR, PRECISIONS = "EMO and Standard MoE", "EMO in float32 and bfloat16"


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets, or what a fixture made of them."""


@pytest.fixture(scope="module")
def documents(tiny_assets: Path) -> pd.DataFrame:
    return pd.read_parquet(tiny_assets / "documents" / "documents.parquet")


def opened(**params: str) -> AppTest:
    return follow_link(PAGE, **params)


def by_id(**params: str) -> AppTest:
    """The page with experts that go by their ids, which is not its default for two models."""
    return opened(difference_experts="By id", **params)


def words(at: AppTest) -> str:
    """What the page says beside the glossary, without the backslashes of Markdown."""
    parts = [*at.main.markdown, *at.main.caption, *at.main.info, *at.main.warning]
    return "\n".join(part.value for part in parts).replace("\\", "")


def routed(
    folder: Path, documents: pd.DataFrame, name: str, dtype: str = "float32"
) -> list[RoutedDocument]:
    """What a model does with documents, worked out beside the app."""
    checkpoint = folder / "checkpoints" / name
    model, tokenizer = load_model(checkpoint, dtype), load_tokenizer(checkpoint)
    found = []
    for document, text in zip(documents["id"], documents["text"], strict=True):
        one = record(model, encode(tokenizer, text, 512).token_ids)
        ids, gates = (each.swapaxes(0, 1)[1:] for each in (one.expert_ids, one.gate_weights))
        found.append(RoutedDocument(document, ids, gates, one.loss[1:], one.token_ids[1:]))
    return found


@pytest.fixture(scope="module")
def pair(tiny_assets: Path, documents: pd.DataFrame) -> Difference:
    first = routed(tiny_assets, documents, "emo-nano")
    return compare(first, routed(tiny_assets, documents, "std-nano"))


@pytest.fixture(scope="module")
def precisions(tiny_assets: Path, documents: pd.DataFrame) -> Difference:
    first = routed(tiny_assets, documents, "emo-nano")
    return compare(first, routed(tiny_assets, documents, "emo-nano", "bfloat16"))


def lines(at: AppTest) -> dict[str, list[float]]:
    """The lines of the first figure by name."""
    return {line["name"]: numbers(line["y"]) for line in charts(at)[0]["data"]}


def agrees(at: AppTest, found: Difference) -> None:
    drawn = lines(at)
    layers = found.layers
    assert drawn["Experts in common"] == pytest.approx([one.shared.mean for one in layers])
    assert drawn["All experts alike"] == pytest.approx([one.same.mean for one in layers])
    assert drawn["In common by chance"] == pytest.approx([one.chance_shared for one in layers])


def test_first_line_and_figures_say_how_far_two_runs_agree(pair: Difference):
    at = by_id()
    agrees(at, pair)
    shared = np.mean([one.shared.mean for one in pair.layers])
    chance = np.mean([one.chance_shared for one in pair.layers])
    said = words(at)
    assert f"On {pair.tokens:,} tokens of 24 documents, EMO and Standard MoE choose" in said
    assert f"**{100 * shared:.0f} %** of the same experts" in said
    assert f"by chance it would be **{100 * chance:.0f} %**" in said
    assert "They first differ at token 1 of document 1 (“<”), in layer 0." in said
    assert pair.loss is not None and f"{pair.loss.mean:+.4f} [" in said
    assert "Experts are compared by their ids" in said
    bars = charts(at)[1]["data"][0]
    assert numbers(bars["y"]) == pytest.approx(pair.first_layer.tolist())
    assert len(charts(at)) == 2  # the others are made when they are looked at
    moved = [one.weight.mean for one in pair.layers if one.weight]
    weights = charts(by_id(difference_view=WEIGHTS))
    assert numbers(weights[0]["data"][0]["y"]) == pytest.approx(moved) and len(weights) == 2


def test_the_same_model_in_another_precision(pair: Difference, precisions: Difference):
    at = opened()
    at.selectbox(key="difference_of").select(PRECISIONS).run()
    agrees(at, precisions)
    assert precisions.same_choices > 0.5 > pair.same_choices
    said = words(at)
    assert "EMO in float32 and EMO in bfloat16 choose" in said
    assert "Experts are compared by their ids" not in said  # they are the same experts
    assert at.query_params["difference_of"] in (PRECISIONS, [PRECISIONS])


def test_experts_are_matched_by_their_use(tiny_assets: Path, documents: pd.DataFrame):
    both = [routed(tiny_assets, documents, name) for name in ("emo-nano", "std-nano")]
    found = compare_pairs(matched_by_use(matched(*both)[0]))
    at = opened()  # so it is for two models, unless asked otherwise
    agrees(at, found)
    assert "difference_experts" not in at.query_params
    assert "matched one to one with those of EMO" in words(at)


def test_another_comparison_has_its_own_way_to_tell_experts():
    at = opened()
    assert at.segmented_control(key="difference_experts").value == "Matched by use"
    at.selectbox(key="difference_of").select(PRECISIONS).run()
    assert at.segmented_control(key="difference_experts").value == "By id"
    at.selectbox(key="difference_of").select(PAIR).run()
    assert at.segmented_control(key="difference_experts").value == "Matched by use"


def test_a_domain_narrows_the_documents(tiny_assets: Path, documents: pd.DataFrame):
    harbour = documents[documents["domain"] == "harbour"]
    both = [routed(tiny_assets, harbour, name) for name in ("emo-nano", "std-nano")]
    at = by_id(difference_domain="harbour")
    agrees(at, compare(*both))
    assert f"of {len(harbour)} documents" in words(at)
    assert (
        at.selectbox(key="difference_document")
        .options[1]
        .startswith(f"2. {harbour['text'].iloc[1][:40]}")
    )


def test_a_link_opens_a_document_at_a_token(tiny_assets: Path, documents: pd.DataFrame):
    row = documents.iloc[[5]]
    one, other = (routed(tiny_assets, row, name)[0] for name in ("emo-nano", "std-nano"))
    at = by_id(difference_document=row["id"].iloc[0], difference_token="7")
    said = words(at)
    assert "**Token 7 of " in said
    assert one.loss is not None and other.loss is not None
    assert f"**{one.loss[6]:.4f}** in EMO, **{other.loss[6]:.4f}** in Standard MoE" in said
    table = at.dataframe[0].value
    for layer in range(2):
        ours, theirs = (set(each.expert_ids[6, layer].tolist()) for each in (one, other))
        both = {int(each) for each in table["In both"][layer].split(", ") if each}
        assert both == ours & theirs
        alone = {int(each) for each in re.findall(r"(\d+) \(", table["Only EMO"][layer])}
        assert alone == ours - theirs
        assert table["Overlap"][layer] == pytest.approx(len(both) / len(ours | theirs), abs=1e-3)
    assert looks(at)[0]["selected"] == 7
    (picture,) = heatmaps(at)
    root = np.array(list(cells(picture["sides"][0]["layers"][0]).values())) / 255
    shown = picture["low"] + (picture["top"] - picture["low"]) * root.reshape(-1, 2)
    differs = 1 - token_difference(matched([one], [other])[0][0]).overlap
    low, top = np.percentile(differs, [5, 95])
    np.testing.assert_allclose(shown, np.clip(differs, low, top), atol=0.01)


def test_the_table_lists_what_differs_most_and_leads_to_the_routing_page(pair: Difference):
    at = opened()
    table = at.dataframe[-1].value
    assert table["Overlap"].is_monotonic_increasing and len(table) == 200
    lowest = min(each.overlap.min() for each in pair.summaries)
    assert table["Overlap"].iloc[0] == pytest.approx(lowest)
    first = table.iloc[0]
    address = urlsplit(first["Token routing"])
    assert address.path == "Token_routing"
    link = follow_link("pages/1_Token_routing.py", **dict(parse_qsl(address.query)))
    number = int(first["Document"].split(".")[0])
    assert link.selectbox(key="routing_choice").value == pair.documents[number - 1]
    assert cards(link)[0]["title"].startswith(f"Token {first['Token']} of ")


def test_own_text_comes_from_the_link(tiny_assets: Path):
    text = "soil and seeds, then <b>rain</b>"
    own = pd.DataFrame({"id": ["own"], "text": [text]})
    both = [routed(tiny_assets, own, name) for name in ("emo-nano", "std-nano")]
    at = by_id(difference_source="Your own text", difference_text=text)
    agrees(at, compare(*both))
    assert "of 1 document, " in words(at) and "so there is no interval" in words(at)
    assert not [each for each in at.selectbox if each.key == "difference_document"]
    assert "".join(token["text"] for token in strips(at)[0]["tokens"]) == text
    assert "Document" not in at.dataframe[-1].value
    assert "routing_text=" in at.dataframe[-1].value["Token routing"].iloc[0]


def test_no_text_yet_is_a_hint():
    at = opened(difference_source="Your own text")
    assert "No text yet" in words(at) and not charts(at)


def test_every_token_as_csv(pair: Difference, monkeypatch: pytest.MonkeyPatch):
    seen: list[page.Found] = []
    monkeypatch.setattr(view, "export", seen.append)
    by_id()
    table = pd.read_csv(io.BytesIO(export.csv(view.every_token(seen[0]))))
    assert len(table) == pair.tokens
    overlap = np.mean([one.overlap.mean for one in pair.layers])
    assert table["overlap"].mean() == pytest.approx(overlap)
    assert len(table["experts_0_EMO"][0].split()) == 3
    # Tokens as JSON strings, so that no spreadsheet takes one for a formula.
    assert json.loads(table["token"][0]) == "<"


def test_which_run_predicts_a_token_better_has_a_second_mark():
    at = opened(difference_of=PAIR, difference_colour=view.LOSS)
    tokens, said = strips(at)[0]["tokens"], words(at)
    ends = ((1, "teal", "above", "EMO"), (-1, "amber", "below", "Standard MoE"))
    for lean, colour, end, name in ends:
        assert any(token["lean"] == lean for token in tokens)
        assert f"by {name}: {colour}, line {end}" in said
    deepest = max(tokens, key=lambda token: float(token["colour"].split(",")[-1][:-1]))
    teal = deepest["colour"].startswith(theme.with_alpha(theme.TEAL, 1)[:18])
    assert deepest["lean"] == (1 if teal else -1)
    assert not any(token["lean"] for token in strips(opened())[0]["tokens"])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("difference_of", "comparison"),
        ("difference_source", "text"),
        ("difference_domain", "domain"),
        ("difference_documents", "number of documents"),
        ("difference_document", "document"),
        ("difference_token", "token"),
        ("difference_colour", "colour of the text"),
        ("difference_experts", "matching of experts"),
    ],
)
def test_what_a_link_asks_for_in_vain_is_named(name: str, what: str):
    at = opened(**{name: "<b>nothing"})
    assert any(f"asks for the {what}" in each.value for each in at.warning)
    assert len(charts(at)) == 2 and name not in at.query_params


@pytest.fixture
def copy(tiny_assets: Path, tmp_path: Path) -> Iterator[Path]:
    """Assets of this test's own."""
    folder = tmp_path / "assets"
    shutil.copytree(tiny_assets, folder)
    with shown(folder):
        yield folder


def test_one_run_is_compared_with_itself_and_says_how_to_get_another(
    copy: Path, precisions: Difference
):
    for part in ("checkpoints", "traces"):
        shutil.rmtree(copy / part / "std-nano")
    at = opened()
    assert "EMO is the only run" in words(at) and "second" in words(at)
    assert at.selectbox(key="difference_of").options == [PRECISIONS]
    agrees(at, precisions)


def test_one_run_without_weights_says_what_it_takes(copy: Path):
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "traces" / "std-nano")
    at = opened()
    assert "EMO is the only run that is chosen; a difference takes a second one" in words(at)
    assert "--level tokens" in at.code[0].value and not charts(at)


def test_different_tokenizers_are_said_and_what_compares_instead(copy: Path):
    file = copy / "checkpoints" / "std-nano" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tokenizer))
    at = opened()
    assert "EMO and Standard MoE have different tokenizers" in words(at)
    assert "in another precision" in words(at) and not charts(at)
    at.selectbox(key="difference_of").select(PRECISIONS).run()
    assert len(charts(at)) == 2


def record_tokens(folder: Path, name: str) -> None:
    shutil.rmtree(folder / "traces" / name, ignore_errors=True)
    source = ("--model", folder / "checkpoints" / name)
    read = ("--documents", folder / "documents" / "documents.parquet")
    emo_viz("record", *source, *read, "--level", "tokens", "--out", folder / "traces" / name)


@pytest.fixture
def recorded(copy: Path) -> Path:
    """Both runs with a trace token by token."""
    for name in ("emo-nano", "std-nano"):
        record_tokens(copy, name)
    return copy


def test_two_traces_without_weights(recorded: Path):
    shutil.rmtree(recorded / "checkpoints")
    at = opened()
    assert at.selectbox(key="difference_of").value == f"{PAIR}, recorded"
    documents = pd.read_parquet(recorded / "documents" / "documents.parquet")
    assert "of 24 documents" in words(at) and len(charts(at)) == 2
    first = at.dataframe[-1].value.iloc[0]
    address = urlsplit(first["Token routing"])
    link = follow_link("pages/1_Token_routing.py", **dict(parse_qsl(address.query)))
    assert cards(link)[0]["title"].startswith(f"Token {first['Token']} of ")
    assert len(heatmaps(link)[0]["sides"]) == 2
    text = "".join(token["text"] for token in strips(at)[0]["tokens"])
    assert text == documents["text"][0]


def test_a_damaged_trace_is_a_sentence_where_there_is_nothing_else(recorded: Path):
    (recorded / "traces" / "std-nano" / "usage.npy").unlink()
    assert "recorded" not in opened().selectbox(key="difference_of").options[0]
    shutil.rmtree(recorded / "checkpoints")
    assert "usage.npy is missing" in words(opened())


def test_traces_agree_with_the_models_that_they_are_of(recorded: Path, pair: Difference):
    at = by_id(difference_of=f"{PAIR}, recorded")
    agrees(at, pair)
    at = opened(difference_of="EMO, recorded and live")
    assert "choose **100 %** of the same experts in every layer" in words(at)
    assert "They never differ." in words(at) and "No token differs in any layer." in words(at)


def server_answers(
    folder: Path,
    trace: Path,
    ids: dict[str, np.ndarray],
    texts: dict[str, str] | None = None,
) -> None:
    """A trace as a server's routing file gives it: expert ids alone, [T, L, K] a document."""
    lines = [
        {"id": document, "prompt_routed_experts": rows.tolist(), "choices": [{}]}
        for document, rows in ids.items()
    ]
    path = folder / "served.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    import_trace(path, trace, Known(num_experts=15, texts=texts))


def only_own(folder: Path) -> Trace:
    """EMO's trace as the only one, under another name."""
    shutil.rmtree(folder / "checkpoints")
    shutil.rmtree(folder / "traces" / "std-nano")
    (folder / "traces" / "emo-nano").rename(folder / "traces" / "own")
    return Trace.open(folder / "traces" / "own")


def test_a_server_s_routing_beside_the_model_s_trace(recorded: Path, tmp_path: Path):
    """Two engines: ids alone from a server, a prefix of its cache missing, one choice changed."""
    trace = only_own(recorded)
    names = trace.facts["id"].tolist()[:3]
    ids = {
        document: trace.recorded(row).expert_ids.swapaxes(0, 1)[1:].copy()
        for row, document in enumerate(names)
    }
    ids[names[1]][:4] = -1
    changed = ids[names[2]][9, 1]
    changed[0] = next(expert for expert in range(15) if expert not in changed)
    server_answers(tmp_path, recorded / "traces" / "served", ids)
    at = opened()
    said = words(at)
    total = sum(map(len, ids.values())) - 4
    assert f"On {total:,} tokens of 3 documents, own and served choose" in said
    assert "They first differ at token 10 of document 3 (" in said
    assert "as one run recorded no expert of them: 4." in said
    assert "compared by their places" in said
    assert len(charts(at)) == 2
    lacking = opened(difference_view=WEIGHTS)
    assert words(lacking).count("Not shown: there are no") == 2 and not charts(lacking)
    assert "of served;" in words(lacking)
    table = at.dataframe[-1].value
    assert table[["Document", "Token", "First layer"]].values.tolist() == [
        [table["Document"].iloc[0], 10, 1]
    ]
    assert table["Document"].iloc[0].startswith("3. ")


def test_a_server_s_routing_beside_the_model_run_on_its_texts(
    recorded: Path, tmp_path: Path, documents: pd.DataFrame
):
    """The model stands under another name than the trace, whose rows have the opening token."""
    trace = Trace.open(recorded / "traces" / "emo-nano")
    ids = {
        document: trace.recorded(row).expert_ids.swapaxes(0, 1)
        for row, document in enumerate(trace.facts["id"].tolist()[:3])
    }
    texts = dict(zip(documents["id"][:3], documents["text"][:3], strict=True))
    for part in ("traces", "checkpoints"):
        shutil.rmtree(recorded / part / "std-nano")
    shutil.rmtree(recorded / "traces" / "emo-nano")
    (recorded / "checkpoints" / "emo-nano").rename(recorded / "checkpoints" / "own")
    server_answers(tmp_path, recorded / "traces" / "served", ids, texts)
    at = opened()
    assert at.selectbox(key="difference_of").value == "own live, served recorded"
    said = words(at)
    assert "They never differ." in said and "of 3 documents, own and served choose" in said
    assert "begins one place earlier than the first: its tokens are shifted" in said
    assert "as then 100 % of the experts agree" in said
    assert "".join(token["text"] for token in strips(at)[0]["tokens"]) == documents["text"][0]


def test_layers_without_anything_in_common_are_one_sentence(recorded: Path, tmp_path: Path):
    only_own(recorded)
    activations = [
        {"layer": 7, "token_idx": token, "expert_idx": token % 3, "gate_weight": 0.5}
        for token in range(5)
    ]
    content = {"num_experts": 15, "token_strs": list("abcde"), "activations": activations}
    (tmp_path / "atlas.json").write_text(json.dumps(content))
    import_trace(tmp_path / "atlas.json", recorded / "traces" / "z-atlas", Known())
    at = opened()
    assert "own and z-atlas have no layer with experts in common" in words(at)
    assert not charts(at)


def test_a_trace_that_is_replaced_shows_at_once(recorded: Path):
    before = words(opened(difference_of=f"{PAIR}, recorded"))
    os.replace(recorded / "traces" / "std-nano", recorded / "traces" / "gone")
    shutil.copytree(recorded / "traces" / "emo-nano", recorded / "traces" / "std-nano")
    shutil.rmtree(recorded / "traces" / "gone")
    after = words(opened(difference_of=f"{PAIR}, recorded"))
    assert "They never differ." in after and "They never differ." not in before


def test_a_row_of_the_table_opens_its_token():
    at = opened()
    row = at.dataframe[-1].value.iloc[3]
    asked = dict(parse_qsl(urlsplit(row["Token routing"]).query))
    at.session_state["difference_document"] = asked["routing_doc"]
    at.session_state["difference_token"] = int(row["Token"])
    assert f"**Token {row['Token']} of " in words(run(at))


def test_the_slots_say_which_runs_and_which_is_the_first(pair: Difference):
    at = opened(a="std-nano", b="emo-nano")
    assert "Standard MoE and EMO choose" in words(at)
    assert pair.loss is not None and f"{-pair.loss.mean:+.4f} [" in words(at)
    assert "a=std-nano" in at.dataframe[-1].value["Token routing"].iloc[0]


def test_a_server_s_file_stands_beside_a_model(recorded: Path, tmp_path: Path):
    ids = Trace.open(recorded / "traces" / "emo-nano").recorded(0).expert_ids.swapaxes(0, 1)[1:]
    server_answers(tmp_path, recorded / "traces" / "served", {"heldout-garden-0": ids})
    at = opened(a="emo-nano", b="served")
    assert at.selectbox(key="difference_of").value == "EMO and served, recorded"
    assert f"On {len(ids):,} tokens of 1 document" in words(at)
    assert "They never differ." in words(at)
    shutil.rmtree(recorded / "traces" / "emo-nano")
    at = opened(a="emo-nano", b="served")
    assert at.selectbox(key="difference_of").value == "EMO live, served recorded"
    assert "The trace served holds no token ids" in words(at) and not charts(at)
