"""The heatmap's messages: what the browser gets is what was recorded, in few bytes."""

import base64
import json

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.ui.parts.heatmap import Follow, Layer, Pick, Side, _beyond, _layer, _pick

TOKENS, SLOTS = 5, 3


def bytes_of(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def layer(routed: int) -> Layer:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((TOKENS, routed)), axis=1)[:, :SLOTS]
    values = np.sort(rng.random((TOKENS, SLOTS)).astype(np.float32), axis=1)[:, ::-1] / 2
    ids[1, 2] = -1
    return Layer(7, ids, values, rng.permutation(routed))


@pytest.mark.parametrize("routed", [8, 256, 300])
def test_ids_and_order_arrive_as_they_are(routed: int):
    one = layer(routed)
    sent = _layer(one, 0.5, differences=False)
    ids = bytes_of(sent["ids"], "<u2" if sent["wide"] else "<u1").reshape(TOKENS, SLOTS)
    used = one.expert_ids >= 0
    assert sent["number"] == 7 and sent["wide"] == (routed > 256)
    np.testing.assert_array_equal(ids[used], one.expert_ids[used])
    np.testing.assert_array_equal(bytes_of(sent["order"], "<u2"), one.order)


def test_a_level_is_the_root_of_the_weight_and_0_is_no_expert():
    one = layer(8)
    levels = bytes_of(_layer(one, 0.5, False)["levels"], "<u1").reshape(TOKENS, SLOTS)
    used = one.expert_ids >= 0
    np.testing.assert_allclose(0.5 * (levels[used] / 255.0) ** 2, one.values[used], atol=0.005)
    np.testing.assert_array_equal(levels == 0, ~used)
    assert (levels[used] > 0).all()


def test_differences_have_zero_in_the_middle():
    values = np.array([[-0.5, 0.0, 0.5]], np.float32)
    levels = bytes_of(
        _layer(Layer(0, np.arange(3)[None], values, np.arange(3)), 0.5, True)["levels"], "<u1"
    )
    assert levels.tolist() == [1, 128, 255]


def test_a_span_is_an_even_scale_between_its_ends():
    values = np.array([[0.4, 0.5, 0.7, 0.9, 1.0]], np.float32)
    one = Layer(0, np.arange(5)[None], values, np.arange(5))
    levels = bytes_of(_layer(one, 0.9, False, low=0.5)["levels"], "<u1")
    assert levels.tolist() == [1, 1, 128, 255, 255]
    sides = [Side("a", "A", "#000000", [one])]
    assert _beyond(sides, 0.5, 0.9) == [True, True] and not any(_beyond(sides, 0.4, 1.0))


def test_no_weight_is_a_faint_cell_not_an_empty_one():
    values = np.array([[np.nan, 0.0, 1.0]], np.float32)
    levels = bytes_of(
        _layer(Layer(0, np.arange(3)[None], values, np.arange(3)), 1.0, False)["levels"], "<u1"
    )
    assert levels.tolist() == [1, 1, 255]


def test_a_pick_names_the_expert_with_its_run_and_layer():
    event = {"token": 4, "follow": {"run": "a", "layer": 2, "expert": 9}}
    assert _pick(event) == Pick(4, Follow("a", 2, 9))
    assert _pick({"token": None, "follow": None}) == Pick(None)
    assert _pick({"token": 4, "follow": None, "back": True}) == Pick(4, back=True)


def _page(selected: int) -> None:
    """AppTest runs the source of this function by itself."""
    import numpy as np

    from emo_viz.ui.parts.heatmap import Layer, Side, heatmap, tell

    ids = np.arange(3)[None].repeat(600, axis=0)
    weights = np.full(ids.shape, 0.1)
    sides = [Side("a", "A", "#000000", [Layer(0, ids, weights, np.arange(9))])]
    heatmap(sides, ["t"] * 600, key="map", on_pick=print, group="text")
    tell("text", selected, None, key="map_look")


def test_a_pick_sends_a_few_bytes_and_the_picture_not_again():
    sent = [AppTest.from_function(_page, args=(token,)).run() for token in (1, 2)]
    maps, looks = zip(*(at.get("bidi_component") for at in sent), strict=True)
    assert maps[0].proto.bytes == maps[1].proto.bytes and len(maps[0].proto.bytes) < 12_000
    assert [json.loads(look.proto.bytes)["selected"] for look in looks] == [1, 2]
    assert len(looks[0].proto.bytes) < 200
