"""Stages for test_stages.py: each goes wrong in a way of its own. Named, never imported, there."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


def good(**arguments):
    yield {"what": "one", "passed": True, **arguments}
    yield {"what": "two", "passed": True}


def wrong():
    yield {"what": "one", "passed": True}
    yield {"what": "two", "passed": False}


def short_of_memory():
    yield {"what": "one", "error": "out of memory"}


def hangs():
    yield {"what": "before", "passed": True}
    threading.Event().wait()


def waits_for_input():
    yield {"what": "read", "passed": sys.stdin.read() == ""}


def hangs_with_a_child(pid_file):
    """A process of its own that would outlive the stage, as a compiler's or a sanitizer's does."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    Path(pid_file).write_text(str(child.pid))
    yield {"what": "started"}
    child.wait()


def exits():
    yield {"what": "before", "passed": True}
    print("about to leave", flush=True)
    os._exit(7)


def crashes():
    yield {"what": "before", "passed": True}
    os.kill(os.getpid(), signal.SIGSEGV)
    threading.Event().wait()


def raises():
    yield {"what": "before", "passed": True}
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
