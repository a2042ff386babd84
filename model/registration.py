"""Makes transformers' Auto classes know model_type "emo" once both they and `model` are imported.

transformers takes seconds to import and most of this package does without it, so nothing is
imported here for its own sake. What registers a class is imported when the Auto class that it
belongs with has been, or at once if that is there already. It must not be imported in the middle
of a module that it needs itself, so it waits for the outermost import to end.

Meanwhile no garbage is collected: a tenth of the time to import transformers would go into looking
through what it makes, all of which stays.
"""

import gc
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

REGISTERING = {
    "transformers.models.auto.configuration_auto": "model.emo.config",
    "transformers.models.auto.modeling_auto": "model.emo.modeling",
}
"""The module that, when it is imported, registers with the Auto classes of another."""
WATCHED = ("transformers", "model")

_underway = threading.local()


class _Watched(Loader):
    """Loads a module as its own loader does; after the outermost one, what is due registers."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        depth, collecting = getattr(_underway, "depth", 0), gc.isenabled()
        _underway.depth = depth + 1
        gc.disable()
        try:
            self.loader.exec_module(module)
        finally:
            _underway.depth = depth
            if collecting:
                gc.enable()
        if not depth:
            _register_what_is_due()


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in WATCHED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Watched(spec.loader)
        return spec


def register() -> None:
    """Register now with the Auto classes that are there, and later with those that are not."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _register_what_is_due()


def _register_what_is_due() -> None:
    for auto, module in REGISTERING.items():
        if auto in sys.modules:
            import_module(module)
