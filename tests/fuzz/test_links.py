"""Links as mail and typing leave them: values that fit, or one sentence on what does not."""

import base64
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from emo_viz.ui.parts.selection import decode, encode
from emo_viz.ui.parts.text_links import PACKED, code_of, text_of
from emo_viz.ui.shell.address import Kind, one_of, several_of, whole_number
from tests.fuzz.mutations import damaged_value
from tests.fuzz.playground import check_sentence, fuzz

IDS = [f"doc-{number}" for number in range(300)] + ["with,comma", "né 🙂"]
METHODS = {"router_probability": "Router probability", "random": "Random"}
KINDS: dict[str, tuple[Kind, list[str]]] = {
    "layer": (one_of("layer", ["All", *map(str, range(4))]), ["All", "3"]),
    "method": (one_of("method", list(METHODS), METHODS.__getitem__), list(METHODS.values())),
    "document": (one_of("document", IDS), [IDS[7], IDS[-1]]),
    "token": (whole_number("token", 1, 255), ["1", "254"]),
    "domains": (several_of("domain", ["tea", "sea", "lea"], most=2), ["tea", "sea"]),
}
MOST = 20_000


@fuzz(30)
@given(data=st.data())
def test_a_damaged_value_fits_or_is_named_in_one_sentence(data: st.DataObject):
    kind, values = KINDS[data.draw(st.sampled_from(sorted(KINDS)))]
    good = data.draw(st.sampled_from(values))
    asked = [data.draw(damaged_value(good)), *data.draw(st.sampled_from([[], [good], ["", ""]]))]
    found = kind.read(asked)
    assert found.value is None or kind.fits(found.value)
    if found.value is None or found.problem:
        check_sentence(found.problem)


@fuzz(10)
@given(data=st.data())
def test_a_damaged_text_in_a_link_is_a_text_or_refused(data: st.DataObject):
    good = data.draw(st.sampled_from([code_of("soil & seeds"), code_of("soil " * 2000)]))
    try:
        text = text_of(data.draw(damaged_value(good)), MOST)
    except ValueError:
        return
    assert len(text) <= MOST
    text.encode()  # without half characters, which no page can show


@pytest.mark.parametrize("size", [MOST + 1, 10**7])
def test_a_packed_text_takes_no_more_room_than_a_text_may(size: int):
    code = PACKED + base64.urlsafe_b64encode(zlib.compress(b"a" * size, 9)).decode()
    with pytest.raises(ValueError):
        text_of(code, MOST)


@fuzz(10)
@given(data=st.data())
def test_a_damaged_selection_is_of_these_documents_or_none(data: st.DataObject):
    rows = np.array(data.draw(st.sampled_from([[0, 5], list(range(0, 300, 2)), [300, 301]])))
    found = decode(data.draw(damaged_value(encode(rows, IDS))), IDS)
    assert found is None or all(0 <= row < len(IDS) for row in found)
