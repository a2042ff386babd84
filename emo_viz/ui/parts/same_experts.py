"""Which expert of one run is which of another: by its id, or matched by use.

In one model an id means the same whatever its precision; in two that were trained apart it means
nothing.
"""

from emo_viz.analysis.matching import Weights
from emo_viz.server import assets
from emo_viz.server.library import LoadedModel

BY_USE, BY_ID = "Matched by use", "By id"


def ways(apart: bool) -> list[str]:
    """The ways to tell that two experts are the same; the first is the usual one."""
    return [BY_USE, BY_ID] if apart else [BY_ID, BY_USE]


def weights_of(loaded: LoadedModel) -> Weights:
    """What is known of a model that is run here; weights too large to be read for it have no
    digest."""
    found = assets.origins([loaded.run]).models.get(loaded.run)
    return Weights(loaded.routed, found.sha256 if found else "", here=True)
