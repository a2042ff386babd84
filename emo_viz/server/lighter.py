"""Less work in Streamlit itself for each run of a page, as far as nothing can change by it.

With every run Streamlit tells the browser the theme again, and for it looks through all of its
options six times: a tenth of a page's time, for what a running server does not change. And what a
page draws goes to the server's thread one element at a time, each with a wake-up of its own; here
what has gathered by the time that the thread comes to it goes together, in the same order.

Where this Streamlit lacks what is replaced, it is left as it is.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

Callback = Callable[[], None]


def lighten() -> None:
    """Make every run of this process lighter; once, as the server starts."""
    for replace in (_keep_theme, _gather_events):
        with contextlib.suppress(ImportError, AttributeError):
            replace()


def _keep_theme() -> None:
    """The theme's message is made once, and anew when Streamlit reads its options anew."""
    from streamlit import config
    from streamlit.proto.NewSession_pb2 import CustomThemeConfig
    from streamlit.runtime import app_session

    populate, kept = app_session._populate_theme_msg, dict[str, CustomThemeConfig]()

    def populate_once(msg: CustomThemeConfig, section: str = "theme") -> None:
        made = kept.get(section)  # whichever thread reads the options anew clears what is kept
        if made is None:
            made = CustomThemeConfig()
            populate(made, section)
            kept[section] = made
        if made.ByteSize():  # a section without options is no part of the message
            msg.MergeFrom(made)

    config.on_config_parsed(kept.clear, force_connect=True)
    app_session._populate_theme_msg = populate_once


def _gather_events() -> None:
    """What script threads tell a session's event loop is handed over in bunches."""
    from streamlit.runtime.app_session import AppSession

    wake = AppSession._call_soon_on_event_loop

    def call_soon(session: Any, callback: Callback) -> None:
        bunch = session.__dict__.setdefault("_emo_viz_bunch", Bunch())
        bunch.add(callback, lambda: wake(session, bunch.run))

    AppSession._call_soon_on_event_loop = call_soon  # type: ignore[method-assign, assignment]


class Bunch:
    """Callbacks of one session on their way to its event loop, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting, self._lock = deque[Callback](), threading.Lock()
        self._woken = False

    def add(self, callback: Callback, wake: Callback) -> None:
        """Let one wait. wake: has `run` called soon; where it raises, the callback is not taken,
        and the next one wakes the loop for what waits."""
        with self._lock:
            self._waiting.append(callback)
            if self._woken:
                return
            self._woken = True
        try:
            wake()
        except BaseException:
            with self._lock:
                self._woken = False
                if callback in self._waiting:
                    self._waiting.remove(callback)
            raise

    def run(self) -> None:
        """Call all that wait, on the event loop. One that raises holds up none of the others."""
        with self._lock:
            waiting, self._waiting, self._woken = self._waiting, deque(), False
        for callback in waiting:
            try:
                callback()
            except Exception as error:  # what the loop does with a callback that raises
                told = {"message": f"{callback!r} failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(told)
