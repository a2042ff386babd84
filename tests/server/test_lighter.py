"""What is left out of a run of a page changes nothing of what the browser is told."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from emo_viz.server.lighter import Bunch
from emo_viz.ui.shell import component

# In a process of its own: what is replaced stays replaced.
TOLD_TWICE = """
from streamlit import config
from streamlit.proto.NewSession_pb2 import CustomThemeConfig
from streamlit.runtime import app_session

from emo_viz.server import lighter


def told():
    message = CustomThemeConfig()
    for section, part in (
        ("theme", message),
        ("theme.light", message.light),
        ("theme.sidebar", message.sidebar),
        ("theme.dark.sidebar", message.dark.sidebar),
    ):
        app_session._populate_theme_msg(part, section)
    return message.SerializeToString(deterministic=True)


config.get_config_options()
before, replaced = told(), app_session._populate_theme_msg
lighter.lighten()
assert app_session._populate_theme_msg is not replaced
assert len(before) > 500 and told() == told() == before
config.set_option("theme.primaryColor", "#000000")
assert told() == before
config.get_config_options(force_reparse=True, options_from_flags={"theme.primaryColor": "#010203"})
assert told() != before and b"#010203" in told()
print("alike")
"""


def test_the_theme_is_told_as_streamlit_tells_it_and_anew_with_its_options():
    done = subprocess.run([sys.executable, "-c", TOLD_TWICE], capture_output=True, text=True)
    assert done.stdout.strip() == "alike", done.stderr


def test_callbacks_are_called_in_order_and_wake_the_loop_once():
    bunch, called, woken = Bunch(), list[int](), list[str]()

    def add(number: int, then: int | None = None) -> None:
        def callback() -> None:
            called.append(number)
            if then is not None:
                add(then)

        bunch.add(callback, lambda: woken.append("woken"))

    for number in range(3):
        add(number)
    assert woken == ["woken"]
    bunch.run()
    assert called == [0, 1, 2]
    add(3, then=4)
    bunch.run()
    assert called[3:] == [3] and len(woken) == 3  # what is added meanwhile is woken for
    bunch.run()
    assert called[-1] == 4


def test_a_loop_that_cannot_be_woken_is_woken_again_by_the_next_callback():
    bunch, called = Bunch(), list[str]()

    def closed() -> None:
        bunch.add(lambda: called.append("of another thread"), lambda: called.append("never"))
        raise RuntimeError("closed")

    with pytest.raises(RuntimeError):
        bunch.add(lambda: called.append("lost"), closed)
    bunch.add(lambda: called.append("next"), bunch.run)
    assert called == ["of another thread", "next"]


def test_a_callback_that_raises_is_told_to_the_loop_and_holds_up_none():
    told, called = list[BaseException](), list[str]()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        bunch = Bunch()
        bunch.add(lambda: 1 / 0, list)
        bunch.add(lambda: called.append("next"), list)
        bunch.run()

    with ThreadPoolExecutor() as apart:  # this thread may have a loop that runs already
        apart.submit(asyncio.run, run()).result()
    assert [type(error) for error in told] == [ZeroDivisionError] and called == ["next"]


def test_a_components_data_is_sent_as_json_whether_it_was_packed_before_or_not(
    monkeypatch: pytest.MonkeyPatch,
):
    sent, scripts = list[bytes](), list[str]()

    def made(name, *, html, css, js):
        scripts.append(js)
        return lambda *, data, **_: sent.append(data)

    monkeypatch.setattr(component.st.components.v2, "component", made)
    mount = component.component("one", js="const a = 1;\nexport default function ({ data }) {}")
    data = {"tokens": ["a", "ش", "😀"], "values": [0.5, None]}
    assert component.packed({"a": [float("nan")], "b": (-float("inf"), 1)}) == (
        b'{"a":[null],"b":[null,1]}'  # a browser's JSON knows neither
    )
    mount(data=data, key="x")
    mount(data=component.packed(data), key="y")
    assert sent[0] == sent[1] == component.packed(data) and component.json.loads(sent[0]) == data
    assert scripts[0].count("export default") == 1
    with pytest.raises(ValueError, match="export default function"):
        component.component("none", js="const a = 1;")
