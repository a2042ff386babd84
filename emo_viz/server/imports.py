"""What runs models, imported by one thread at a time.

transformers imports its parts when they are first asked for, and they import each other: of two
threads that begin at different parts, one would get a part that is half there, as an ImportError.
The warming of the server (see warm.py) is one such thread, the first visitor's page another.
"""

import threading
from importlib import import_module
from types import ModuleType

FOR_MODELS = ("torch", "transformers", "model.run.live")
_lock = threading.RLock()


def alone(name: str) -> ModuleType:
    """The module of this name; waits for another thread that is importing one by this."""
    with _lock:
        return import_module(name)


def for_models() -> None:
    """Import all that loads and runs a model: before anything of it is imported otherwise."""
    for name in FOR_MODELS:
        alone(name)
