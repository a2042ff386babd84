"""A page that is opened while the server warms up gets its models."""

import subprocess
import sys
from functools import partial

from emo_viz.server import imports, warm
from emo_viz.server.assets import APP_FOLDER

BOTH_AT_ONCE = """
import threading
from emo_viz.server import library, warm

def warming():
    for step in warm.steps():
        step()

failed = []
threading.excepthook = lambda told: failed.append(repr(told.exc_value))
threads = [threading.Thread(target=each) for each in (warming, library.models)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failed)
"""


def test_the_first_page_and_the_warming_import_at_once():
    ended = subprocess.run(
        [sys.executable, "-c", BOTH_AT_ONCE], cwd=APP_FOLDER, capture_output=True, text=True
    )
    assert ended.stdout.strip() == "[]", ended.stderr


def test_the_warming_imports_alone_whatever_it_imports():
    named = [
        step.args[0]
        for step in warm.steps()
        if isinstance(step, partial) and step.func is imports.alone
    ]
    assert {*warm.FOR_PAGES, *imports.FOR_MODELS} <= set(named)
