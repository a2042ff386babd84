"""Subset ablation page: what its views in the browser share.

The slider tells them where it stands without the server (keep.js); each was given, once, what it
shows at every stop.
"""

from pathlib import Path
from typing import Any

from emo_viz.analysis.runs import Comparison
from emo_viz.figures.theme import colour_of, mark_of
from emo_viz.ui.parts.scripts import scripts
from emo_viz.ui.shell.component import component

_FOLDER = Path(__file__).parent


def view(name: str, html: str, css: str = "", js: str = "") -> Any:
    """A view of this page: the script NAME.js after `js`, and the page's own style before `css`."""
    own = [_FOLDER / "keep.js", _FOLDER / f"{name}.js"]
    return component(
        f"emo_viz_cut_{name}",
        html=html,
        css=(_FOLDER / "ablation.css").read_text(encoding="utf-8") + css,
        js="\n".join([js, scripts("make"), *(one.read_text(encoding="utf-8") for one in own)]),
    )


def loss_change(before: float, after: float) -> str:
    """ "4.310 → 4.309 nats a token (-0.001)": the change of the numbers as they are shown."""
    one, other = round(before, 3), round(after, 3)
    return f"{one:.3f} → {other:.3f} nats a token ({other - one:+.3f})"


def runs_data(runs: Comparison) -> list[dict[str, str]]:
    """How the views call and mark the runs, in their order."""
    return [
        {"id": run.id, "label": run.label, "colour": colour_of(run), "mark": mark_of(run)}
        for run in runs
    ]
