"""Documents that say one thing over and over: the filter of EMO's training (OLMo-core's).

The released models were trained with a loss that left out every sequence in which 1 to MAX_PERIOD
tokens stand more than MAX_COUNT times in a row. Here such a document leaves the training split.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PERIOD, MAX_COUNT = 13, 32


def repeats(tokens: NDArray[Any], max_period: int = MAX_PERIOD, max_count: int = MAX_COUNT) -> bool:
    """Whether some 1 to `max_period` tokens stand more than `max_count` times in a row."""
    for period in range(1, max_period + 1):
        # Of a sequence that stands there n times, all but the first are as one period before.
        same = tokens[period:] == tokens[:-period]
        if _longest_run(same) >= max_count * period:
            return True
    return False


def _longest_run(flags: NDArray[np.bool_]) -> int:
    breaks = np.flatnonzero(~np.concatenate([[False], flags, [False]]))
    return int(np.diff(breaks).max(initial=1)) - 1
