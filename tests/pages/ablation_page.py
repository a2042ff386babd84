"""What the tests of the subset ablation page read from it, and work out beside it."""

import json
import re

import numpy as np
from streamlit.testing.v1 import AppTest

from model.run.inference import record
from model.run.subset import ExpertSubset, apply_subset
from tests.pages.opened import follow_link, run

PAGE = "pages/3_Subset_ablation.py"


def opened(**params: str) -> AppTest:
    return follow_link(PAGE, **params)


def words(at: AppTest) -> str:
    """All that the page says in words."""
    parts = [*at.markdown, *at.caption, *at.info, *at.warning, *at.error]
    return "\n".join(part.value for part in parts)


def given(at: AppTest, *parts: str) -> dict:
    """What the view that has these parts was given to show."""
    views = [json.loads(part.proto.bytes) for part in at.get("bidi_component")]
    return [view for view in views if all(part in view for part in parts)][-1]


def slider(at: AppTest) -> dict:
    """What the slider and its curve were given; `position` is where it stands."""
    return given(at, "stops", "position")


def move(at: AppTest, keep_k: int) -> AppTest:
    """Let the slider go at another place."""
    at.session_state["k"] = keep_k
    return run(at)


def lines(at: AppTest, keep_k: int | None = None) -> dict[str, str]:
    """What the two lines, "all" and "document", say at a place of the slider, or where it is."""
    found = given(at, "stops", "computing")
    stop = str(slider(at)["position"] if keep_k is None else keep_k)
    labels = [run["label"] for run in found["runs"]]
    return {
        name: "".join(part["text"] if "text" in part else labels[part["run"]] for part in parts)
        for name, parts in found["stops"][stop]
    }


def table(at: AppTest, keep_k: int | None = None) -> dict[str, list[str]]:
    """The numbers of the chosen document by model label: full loss, cut, change, worse tokens."""
    line = re.compile(r"(.+) → (.+) nats a token \((.+)\), (.+) of tokens worse")
    found = [view for view in at.get("bidi_component") if b"palette" in view.proto.bytes]
    if not found:
        return {}
    stop = str(slider(at)["position"] if keep_k is None else keep_k)
    runs = given(at, "tokens", "palette")["runs"]
    return {run["label"]: list(line.fullmatch(run["numbers"][stop]).groups()) for run in runs}


def shown_losses(full: float, cut: float) -> list[str]:
    """The first three of these numbers: the change is that of the two beside it."""
    one, other = f"{full:.3f}", f"{cut:.3f}"
    return [one, other, f"{float(other) - float(one):+.3f}"]


def written(at: AppTest, keep_k: int) -> dict[str, str]:
    """What each model wrote with so many experts, by label."""
    runs = given(at, "prompt")["runs"]
    texts = {run["label"]: run["texts"].get(str(keep_k), {"parts": []}) for run in runs}
    return {label: "".join(text for text, _ in own["parts"]) for label, own in texts.items()}


def losses(model, token_ids: np.ndarray, subset: ExpertSubset | None = None) -> np.ndarray:
    """Losses of a document without EOS, worked out beside the app."""
    if subset is None:
        return record(model, token_ids).loss[1:]
    with apply_subset(model, subset):
        return record(model, token_ids).loss[1:]
