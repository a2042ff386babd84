"""What runs models, imported by one thread at a time.

transformers imports its parts when they are first asked for, and they import each other: of two
threads that begin at different parts, one would get a part that is half there, as an ImportError.
The warming of the server (see warm.py) is one such thread, the first visitor's page another.
"""

import sys
import threading
from importlib import import_module
from types import ModuleType

FOR_CLUSTERS = ("sklearn.cluster", "scipy.optimize")
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


def for_clusters() -> None:
    """Import all that finds clusters; waits for the thread of `clusters_ahead`."""
    for name in FOR_CLUSTERS:
        alone(name)


def clusters_ahead() -> None:
    """Begin to import what finds clusters on a thread of its own, while something else is done.

    It takes a second of one core, and what comes before clusters are sought (reading the routing, a
    PCA) leaves Python to other threads. Until `for_clusters` the caller imports nothing of SciPy.
    """
    if any(name not in sys.modules for name in FOR_CLUSTERS):
        threading.Thread(target=for_clusters, name="importing", daemon=True).start()
