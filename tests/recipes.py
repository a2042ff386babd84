"""What the app does in steps or as a stream, in one piece: for tests to compare with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.difference import RoutedDocument, same_documents
from emo_viz.analysis.shift import shift_of, shifted
from emo_viz.analysis.vectors import fit_pca, unit_rows


def realigned(
    first: Sequence[RoutedDocument], second: Sequence[RoutedDocument]
) -> tuple[list[RoutedDocument], str]:
    """The second run's documents, shifted by a place where that is plainly how they belong to the
    first's, and a sentence that says so ("" if they are as they were)."""
    by, said = shift_of(same_documents(first, second)[0])
    return [shifted(each, by) for each in second], said


def routing_vectors(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows [N, F] of router probabilities as unit vectors [N, C] in their 95 % PCA."""
    return unit_rows(fit_pca(rows).project(rows))
