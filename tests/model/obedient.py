"""Workers of the study's queue that do what the name of a run says; without any test's imports."""

import os
import signal
from multiprocessing.connection import Connection
from typing import Any

from model.study.queue import answer
from model.study.runs import Run


def obey(run: Run, plainly: bool) -> dict[str, Any]:
    if run.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if run.name == "breaks" and not plainly:
        raise RuntimeError("the device is in a bad state")
    if run.name == "fails":
        raise ValueError("it had to")
    return {"evaluation": {"summary": {"all": {"full": [1.0]}}}, "process": os.getpid()}


def serve_obedience(channel: Connection) -> None:
    answer(channel, obey)
