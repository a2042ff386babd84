"""How long work says how far it is, and how it is called off."""

from collections.abc import Callable

Report = Callable[[int, int], None]
"""report(done, total), between steps and once before the first; what it raises ends the work."""


def unreported(done: int, total: int) -> None:
    """The report of work that nobody watches."""


class Counter:
    """Counts steps as done, of `total`, and reports each time."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self.done, self.total = report, 0, total
        report(0, total)

    def __call__(self, steps: int = 1) -> None:
        self.done += steps
        self._report(self.done, self.total)
