"""The checkpoint slider's picture as data: all that the browser needs to draw every step by itself.

Nothing is worked out in the browser but where things stand between two checkpoints.

Shapes: C checkpoints, D documents, K notches.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.families import families, mean_routing
from emo_viz.analysis.training_history import (
    DOCUMENT_NMI,
    MODAL_SHARE,
    TOKEN_NMI,
    History,
    increases,
    project,
    whole_losses,
)
from emo_viz.figures.clusters import Group, family_groups
from emo_viz.figures.theme import RUN_COLOURS

Part = dict[str, Any]
STEPS = 65_535
TITLES = {
    DOCUMENT_NMI: "Document clusters and domains, NMI",
    TOKEN_NMI: "Token clusters and domains, NMI",
    MODAL_SHARE: "Tokens in their document's modal cluster, share",
}


@dataclass(frozen=True)
class Look:
    """What a run is called, and its slot."""

    label: str
    slot: int


def picture(histories: Sequence[History], looks: Sequence[Look]) -> Part:
    """The picture of one history or two, of the same documents."""
    first = histories[0]
    groups = _groups(first)
    return {
        "steps": sorted({step for history in histories for step in history.steps}),
        "documents": _documents(first),
        "groups": [_group(group) for group in groups],
        "member": _member(groups, len(first.documents.ids)),
        "keeps": list(first.keeps),
        "runs": [_run(history, look) for history, look in zip(histories, looks, strict=True)],
        "measures": [
            {"name": "loss", "title": "Loss with all experts, nats a token", "least": None}
        ]
        + [{"name": name, "title": title, "least": 0} for name, title in TITLES.items()],
    }


def _groups(history: History) -> list[Group]:
    """A look for each domain, by how its documents are routed in the last checkpoint."""
    names = history.documents.domains
    rows = history.moments[-1].usage
    routing = mean_routing(names, rows.reshape(len(rows), -1))
    return family_groups(names, families(names, routing))


def _group(group: Group) -> Part:
    return {"name": group.name, "colour": group.colour, "symbol": group.symbol, "sign": group.sign}


def _member(groups: Sequence[Group], documents: int) -> str:
    member = np.zeros(documents, np.uint16)
    for place, group in enumerate(groups):
        member[group.rows] = place
    return _packed(member)


def _documents(history: History) -> list[list[str]]:
    told = history.documents
    return [
        [domain, source, opening]
        for domain, source, opening in zip(told.domains, told.sources, told.openings, strict=True)
    ]


def _run(history: History, look: Look) -> Part:
    projection = project(history)
    low = projection.places.min(axis=(0, 1))
    unit = float((projection.places.max(axis=(0, 1)) - low).max()) / STEPS or 1.0
    places = np.round((projection.places - low) / unit).astype(np.uint16)
    wide = (places.max(axis=(0, 1)) / STEPS).tolist()
    measures = {
        name: [
            [interval.mean, interval.low, interval.high]
            for interval in (moment.measures[name] for moment in history.moments)
        ]
        for name in TITLES
    }
    return {
        "label": look.label,
        "colour": RUN_COLOURS[look.slot],
        "dash": "" if look.slot == 0 else "5 3",
        "steps": history.steps,
        "places": _packed(places),
        "wide": wide,
        "shown": projection.share,
        "cuts": np.round(increases(history), 4).tolist(),
        "measures": measures | {"loss": [[loss] * 3 for loss in whole_losses(history)]},
    }


def _packed(array: NDArray[np.uint16]) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<u2").tobytes()).decode()
