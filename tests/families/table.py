"""docs/families.md out of what the families do: python tests/families/table.py (test_table.py
fails where the file says something else).
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from tiny import CAUSAL, SEQ2SEQ, UNKNOWN, run, tiny_model  # noqa: E402

from model.families import RoutedModel, routed  # noqa: E402
from model.families.rules import Rule  # noqa: E402

PAGE = ROOT / "docs" / "families.md"
HEAD = """# Families of models

Made by `python tests/families/table.py` from small random models of the installed transformers;
the tests fail where it says something else. A family is how one architecture routes
(`model/families`). *Recorded*: the experts and gate weights that the model really used, by
`python -m emo_viz record` (tests/runs/test_record_families.py holds it to plain loops). *Left out
live*: some experts can be left out in one thread, as if they had been deleted, without touching
the model. Other architectures are tried by the shape of their routers and marked as guessed.

| Model type | Routers | Scores | Recorded | Left out live |
|---|---|---|---|---|
"""
KEPT = [0, 2, 3, 5, 7]


def page() -> str:
    """The whole file."""
    return HEAD + "".join(_row(family) for family in [*CAUSAL, *SEQ2SEQ, *UNKNOWN])


def _row(family: str) -> str:
    made = tiny_model(family)
    before = run(made)
    model = routed(made)
    with model.recorded() as tape:
        same = torch.equal(run(made), before)
    recorded = "yes" if same and len(tape.expert_ids) == len(model.layers) else "no"
    name = f"`{family}`" + (" (guessed)" if model.guessed else "")
    cells = [name, _routers(model), _words(model.layers[0].rule), recorded, _cut(model, before)]
    return f"| {' | '.join(cells)} |\n"


def _routers(model: RoutedModel) -> str:
    layer = model.layers[0]
    shared = f", {layer.num_shared} shared" if layer.num_shared else ""
    return f"{type(layer.block.router).__name__}{shared}"


def _words(rule: Rule | None) -> str:
    if rule is None:
        return "not recognised"
    words = [rule.score]
    if rule.norm is not None:
        words.append("chosen ones scaled to sum to 1")
    if rule.groups > 1:
        words.append(f"best {rule.groups_kept} of {rule.groups} groups")
    if rule.scale != 1:
        words.append(f"times {rule.scale:g}")
    return ", ".join(words)


def _cut(model: RoutedModel, before: torch.Tensor) -> str:
    try:
        with model.restricted([KEPT] * len(model.layers)):
            after = run(model.model)
    except ValueError as error:
        return f"no: {error}"
    return "yes" if after.isfinite().all() and not torch.equal(after, before) else "no"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
