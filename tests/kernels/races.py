"""Races, found on a CPU: programs of one launch that touch one address, one of them writing.

Triton's interpreter runs the programs of a launch one after another, so a race does no harm there;
this notes every address that is loaded or stored and by which program, and compares at the end of
each launch. Test-only.
"""

from contextlib import contextmanager

import numpy as np
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder


class Accesses:
    """Addresses of one launch, each with the number of the program that touched it."""

    def __init__(self):
        self.loads, self.stores = [], []

    def note(self, kept, builder, pointers, mask):
        addresses = np.broadcast_to(pointers.data, mask.data.shape)[mask.data].astype(np.uint64)
        if addresses.size:
            program = np.ravel_multi_index(builder.grid_idx, builder.grid_dim)
            addresses = np.unique(addresses)
            kept.append((addresses, np.full(addresses.size, program)))

    def check(self, name):
        """Raises AssertionError if a program stores where another one loads or stores."""
        if not self.stores:
            return
        written, writer = map(np.concatenate, zip(*self.stores, strict=True))
        touched, toucher = map(np.concatenate, zip(*(self.loads + self.stores), strict=True))
        order = np.argsort(written, kind="stable")
        written, writer = written[order], writer[order]
        place = np.minimum(np.searchsorted(written, touched), written.size - 1)
        shared = (written[place] == touched) & (writer[place] != toucher)
        assert not shared.any(), (
            f"{name}: programs {writer[place][shared][0]} and {toucher[shared][0]} touch one "
            "address, and one of them writes"
        )


@contextmanager
def forbidden():
    """Every launch inside raises AssertionError if it has a race."""
    launch, current = GridExecutor.__call__, Accesses()
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def run(self, *args, **kwargs):
        nonlocal current
        current = Accesses()
        launch(self, *args, **kwargs)
        current.check(self.fn.__name__)

    def masked_load(self, pointers, mask, *rest):
        current.note(current.loads, self, pointers, mask)
        return load(self, pointers, mask, *rest)

    def masked_store(self, pointers, value, mask, *rest):
        current.note(current.stores, self, pointers, mask)
        return store(self, pointers, value, mask, *rest)

    GridExecutor.__call__ = run
    InterpreterBuilder.create_masked_load = masked_load
    InterpreterBuilder.create_masked_store = masked_store
    try:
        yield
    finally:
        GridExecutor.__call__ = launch
        InterpreterBuilder.create_masked_load = load
        InterpreterBuilder.create_masked_store = store
