"""A folder with nothing but an imported trace: the routing page shows it, and what is absent."""

import json
import shutil

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.analysis.runs import Run, compare
from emo_viz.runs.import_trace import Known, import_trace
from emo_viz.server import recordings
from emo_viz.ui.parts.reading import Chosen
from emo_viz.ui.routing import traced, view
from tests.pages.opened import (
    cards,
    cells,
    charts,
    follow_link,
    heatmaps,
    looks,
    numbers,
    run,
    sent_maps,
    strips,
    texts,
)

PAGE = "pages/1_Token_routing.py"
PAGES = (PAGE, "pages/2_Document_clusters.py", "pages/3_Subset_ablation.py", "pages/4_Kernel.py")
TOKENS, LAYERS, SLOTS, EXPERTS = 20, 3, 2, 8


@pytest.fixture
def ids() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.argsort(rng.random((TOKENS, LAYERS, EXPERTS)), axis=2)[:, :, :SLOTS]


@pytest.fixture
def assets(tmp_path, monkeypatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def answers(ids, assets, tmp_path):
    """Two answers of a server: <b> in an id, no text, no weights."""
    lines = [
        {"id": name, "model": "Qwen", "prompt_routed_experts": rows.tolist(), "choices": [{}]}
        for name, rows in (("one <b>", ids), ("two", ids[:7]))
    ]
    for line in lines:
        line["choices"] = [{"index": 0, "routed_experts": ids[:3].tolist()}]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return import_trace(path, assets / "traces" / "qwen", Known(num_experts=EXPERTS))


def opened(**params: str) -> AppTest:
    return follow_link(PAGE, **params)


def test_an_imported_trace_is_shown_without_any_checkpoint(answers, ids):
    at = opened()
    said = texts(at)
    assert f"of {EXPERTS} experts" in said and "Qwen" in said and "23 tokens" in said
    said = said.replace("\\", "")
    assert "no gate weights, no router entropies, no losses" in said
    assert "with --level tokens" in said and "cuts need a checkpoint" in said
    assert [token["text"] for token in strips(at)[0]["tokens"]][:3] == ["1 ", "2 ", "3 "]
    rows = np.concatenate([ids, ids[:3]])
    assert picture(at) == shown_of(rows, layer=LAYERS - 1)
    assert heatmaps(at)[0]["what"] == ""  # an expert is used or not
    every = opened(routing_picture="All layers")
    assert [picture(every, 0, layer) for layer in range(LAYERS)] == [
        shown_of(rows, layer) for layer in range(LAYERS)
    ]
    assert not charts(every)[1:]  # but for the panel of the whole text


def test_a_link_opens_a_document_a_token_and_an_expert(answers, ids):
    expert = int(ids[4, 1, 0])
    at = opened(routing_doc="two", routing_layer="1", routing_token="5", routing_expert=str(expert))
    bars = cards(at)[0]["parts"][0]["bars"]
    assert [bar["experts"] for bar in bars] == ids[4].tolist()
    assert not any(bar["weights"] for bar in bars)
    followed = looks(at)[0]["followed"]
    assert followed == {"run": "qwen", "layer": 1, "expert": expert}
    marked = [token["marked"] for token in strips(at)[0]["tokens"]]
    expected = (np.concatenate([ids[:7], ids[:3]])[:, 1] == expert).any(axis=1)
    assert marked == expected.tolist()
    at.button(key="routing_previous").click()
    other = run(at)
    assert len(strips(other)[0]["tokens"]) == 23 and not cards(other)


def test_gate_weights_and_texts_are_shown_where_the_file_has_them(assets, ids, tmp_path):
    activations = [
        {"layer": layer + 4, "token_idx": token, "expert_idx": int(expert), "gate_weight": 0.25}
        for (token, layer, _), expert in np.ndenumerate(ids)
    ]
    words = [f" w{place}" for place in range(TOKENS)]
    content = {"num_experts": EXPERTS, "token_strs": words, "activations": activations}
    (tmp_path / "atlas.json").write_text(json.dumps(content))
    import_trace(tmp_path / "atlas.json", assets / "traces" / "atlas", Known())
    at = opened(routing_token="1", routing_layer="5")
    assert strips(at)[0]["tokens"][0]["text"] == " w0"
    bars = cards(at)[0]["parts"][0]["bars"]
    assert [(bar["layer"], bar["weights"]) for bar in bars] == [(n, [0.25] * 2) for n in (4, 5, 6)]
    assert picture(at) == shown_of(ids, layer=1)
    layer = heatmaps(at)[0]["sides"][0]["layers"][0]
    assert layer["number"] == 5 and heatmaps(at)[0]["what"] == "gate weight"
    assert "no losses" in texts(at) and "no gate weights" not in texts(at)


def picture(at: AppTest, side: int = 0, layer: int = 0) -> set[tuple[int, int]]:
    """The (position, expert) that a picture shows."""
    return set(cells(heatmaps(at)[0]["sides"][side]["layers"][layer]))


def shown_of(rows: np.ndarray, layer: int) -> set[tuple[int, int]]:
    """Those of choices [T, L, K]."""
    return {(t, int(e)) for t, chosen in enumerate(rows[:, layer], start=1) for e in chosen}


@pytest.fixture
def pair(answers, ids, assets, tmp_path):
    """Another engine's recording of the same two answers: its second choice moves up by one, and
    its third layer is missing; the second answer is a token shorter."""
    moved = ids.copy()[:, :2]
    moved[:, :, 1] = (moved[:, :, 1] + 1) % EXPERTS
    lines = [
        {"id": name, "prompt_routed_experts": rows.tolist()}
        | {"choices": [{"index": 0, "routed_experts": moved[:last].tolist()}]}
        for name, rows, last in (("one <b>", moved, 3), ("two", moved[:7], 2))
    ]
    path = tmp_path / "moved.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    import_trace(path, assets / "traces" / "zwen", Known(num_experts=EXPERTS))
    return np.concatenate([moved, moved[:3]])


def test_two_traces_stand_side_by_side_with_their_difference(pair, ids):
    at = opened(routing_layer="1")
    assert [side["label"] for side in heatmaps(at)[0]["sides"]] == ["qwen", "zwen"]
    ours, theirs = shown_of(np.concatenate([ids, ids[:3]]), 1), shown_of(pair, 1)
    assert (picture(at), picture(at, 1)) == (ours, theirs)
    assert "Layer left out, as only one run has experts there: 2." in texts(at).replace("\\", "")
    assert "in qwen" in texts(at) and "in zwen" in texts(at)
    less = opened(routing_layer="1", routing_picture="Difference")
    assert picture(less) == ours ^ theirs
    levels = cells(heatmaps(less)[0]["sides"][0]["layers"][0])
    assert {cell for cell, level in levels.items() if level > 128} == ours - theirs


def test_experts_of_other_ids_are_matched_by_the_other_documents(assets, ids, tmp_path):
    """Physical ids of an engine, of which there are more, for logical ones."""
    rng = np.random.default_rng(1)
    physical = np.stack([rng.permutation(EXPERTS + 4)[:EXPERTS] for _ in range(LAYERS)])
    other = np.argsort(rng.random((200, LAYERS, EXPERTS)), axis=2)[:, :, :SLOTS]
    for name, experts in (("logical", EXPERTS), ("physical", EXPERTS + 4)):
        lines = []
        for document, rows in (("shown", ids), ("other", other)):
            if name == "physical":
                rows = physical[np.arange(LAYERS)[:, None], rows]
            choices = [{"index": 0, "routed_experts": rows[-1:].tolist()}]
            lines.append({"id": document, "prompt_routed_experts": rows[:-1].tolist()})
            lines[-1]["choices"] = choices
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        known = Known(num_experts=experts)
        import_trace(tmp_path / f"{name}.jsonl", assets / "traces" / name, known)
    at = opened(routing_picture="Difference", routing_layer="2")
    (side,) = heatmaps(at)[0]["sides"]
    assert not cells(side["layers"][0]) and "Nothing differs in layer 2" in texts(at)
    names = side["layers"][0]["names"]
    assert names[:EXPERTS] == [f"{e}={p}" for e, p in enumerate(physical[2])]
    assert "in 1 other document of 200 tokens" in texts(at)
    assert "100 % of this text's choices are then of both" in texts(at)
    by_id = opened(routing_picture="Difference", routing_match="By id")
    assert len(heatmaps(by_id)[0]["sides"]) == 2 and "View matches them by use" in texts(by_id)


def test_traces_of_other_tokens_are_shown_one_at_a_time(pair):
    at = opened(routing_doc="two", run="zwen")
    assert "have other tokens in this document" in texts(at)
    assert [side["label"] for side in heatmaps(at)[0]["sides"]] == ["zwen"]
    assert len(strips(at)[0]["tokens"]) == 9


def test_the_table_of_a_trace_holds_nothing_that_it_does_not_say(pair, ids):
    names = ("qwen", "zwen")
    runs = compare([Run(name, name) for name in names])
    traces = {name: recordings.opened(name) for name in names}
    documents = {name: trace.recorded(0) for name, trace in traces.items()}
    layers = traced.layers_of(runs, traces)
    reading = traced.read(runs, traces, documents, layers, Chosen("", ""))
    table = view.table(reading)
    assert set(table) == {"run", "layer", "position", "token", "expert_1", "expert_2"}
    second = table[(table["run"] == "qwen") & (table["layer"] == 1)]
    np.testing.assert_array_equal(second[["expert_1", "expert_2"]][:TOKENS], ids[:, 1])


def test_counts_alone_show_their_use_and_say_that_there_are_no_tokens(assets, tmp_path):
    (tmp_path / "c.csv").write_text("layer,expert,count\n0,0,30\n0,3,10\n2,1,5\n")
    import_trace(tmp_path / "c.csv", assets / "traces" / "counts", Known())
    at = opened()
    assert "at least 4 experts" in texts(at) and "holds no tokens" in texts(at)
    used = np.array(numbers(charts(at)[0]["data"][0]["z"])).reshape(2, 4)
    np.testing.assert_allclose(used, [[0.75, 0, 0, 0.25], [0, 1, 0, 0]], rtol=2e-3)
    assert not strips(at)


def test_of_several_traces_one_is_chosen(answers, assets, tmp_path):
    (tmp_path / "c.csv").write_text("layer,expert,count\n0,0,30\n")
    import_trace(tmp_path / "c.csv", assets / "traces" / "counts", Known())
    assert not strips(opened()) and strips(opened(run="qwen"))


def test_a_damaged_trace_is_a_sentence(answers):
    (answers.path / "usage.npy").unlink()
    assert "usage.npy is missing" in texts(opened()).replace("\\", "")


@pytest.mark.parametrize("page", ["", "pages/2_Document_clusters.py", "pages/3_Subset_ablation.py"])
def test_the_other_pages_say_what_such_a_trace_lacks(answers, page):
    at = follow_link(page)
    said = "\n".join([texts(at), *(part.value for part in at.error)]).replace("\\", "")
    sentence = {
        "": "This is **qwen**",
        "pages/2_Document_clusters.py": "The trace qwen holds no domains; record the model's",
        "pages/3_Subset_ablation.py": "There is no checkpoint of qwen here",
    }[page]
    assert sentence in said and at.code


def test_a_run_with_a_checkpoint_beside_such_a_trace(answers, tiny_assets, assets):
    for part in ("checkpoints", "traces"):
        shutil.copytree(tiny_assets / part / "emo-nano", assets / part / "emo-nano")
    shutil.copytree(tiny_assets / "documents", assets / "documents")
    clusters = follow_link("pages/2_Document_clusters.py", cluster_level="Documents")
    assert "in EMO" in texts(clusters) and len(sent_maps(clusters)["panels"]) == 1
    (assets / "checkpoints" / "emo-nano").rename(assets / "checkpoints" / "a-model")
    (assets / "traces" / "emo-nano").rename(assets / "traces" / "a-model")
    clusters = follow_link("pages/2_Document_clusters.py", cluster_level="Documents")
    said = texts(clusters).replace("\\", "")
    assert "in a-model" in said and "The trace qwen holds no domains" in said
    routing = follow_link(PAGE)
    assert "There is no checkpoint of qwen here." in texts(routing).replace("\\", "")
    assert [side["label"] for side in heatmaps(routing)[0]["sides"]] == ["a-model"]


# The other pages


@pytest.fixture
def many(assets, tmp_path):
    """Sixty answers of three kinds, which use experts of their own."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(60):
        ids = 16 * (number % 3) + np.argsort(rng.random((30, 4, 16)), axis=2)[:, :, :4]
        rows = {"prompt_routed_experts": ids[:2].tolist()}
        lines.append({"id": f"c{number}", **rows, "choices": [{"routed_experts": ids.tolist()}]})
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return import_trace(path, assets / "traces" / "many", Known(num_experts=48))


def test_answers_of_a_server_are_clustered_on_the_page(many):
    shown = {"cluster_level": "Documents", "cluster_k": "3", "cluster_part": "Clusters"}
    at = follow_link("pages/2_Document_clusters.py", **shown)
    said = texts(at).replace("\\", "")
    assert "The trace many holds no domains; record" in said
    assert "The trace many holds no texts; import its file again with --text" in said
    tables = [frame.value for frame in at.dataframe]
    sizes = next(table["documents"] for table in tables if "documents" in table)
    assert sizes.tolist() == [20, 20, 20]
    assert "its place the experts' shares of choices of all layers" in said
    assert "Of 60 documents, the largest of 3 clusters by routing holds **20** in many." in said


@pytest.mark.parametrize("page", ["", *PAGES])
def test_no_page_fails_on_an_imported_trace_or_on_counts(page, many, assets, tmp_path):
    follow_link(page)
    shutil.rmtree(many.path)
    (tmp_path / "c.csv").write_text("layer,expert,count\n0,0,30\n0,3,10\n2,1,5\n")
    import_trace(tmp_path / "c.csv", assets / "traces" / "counts", Known())
    follow_link(page)
    follow_link(page, cluster_level="Documents")
