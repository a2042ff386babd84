"""docs/families.md out of what the families do: python tests/families/table.py (test_table.py
fails where the file says something else).
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from tiny import CAUSAL, KEPT, SEQ2SEQ, UNKNOWN, run, save_tokenizer, tiny_model  # noqa: E402

from model.evaluate.subject import FamilySubject  # noqa: E402
from model.families import RoutedModel, routed  # noqa: E402
from model.families.rules import Rule  # noqa: E402
from model.run.cut import plan_cut  # noqa: E402
from model.run.live import LiveFamily  # noqa: E402
from model.run.opening import Opened, open_tokenizer  # noqa: E402
from model.run.subset import ExpertSubset  # noqa: E402

PAGE = ROOT / "docs" / "families.md"
HEAD = """# Families of models

Made by `python tests/families/table.py` from small random models of the installed transformers;
the tests fail where it says something else. A family is how one architecture routes
(`model/families`). *Recorded*: the experts and gate weights that the model really used, by
`python -m emo_viz record` (tests/runs/test_record_families.py holds it to plain loops). *Left out
live*: some experts can be left out in one thread, as if they had been deleted, without touching
the model. *Cut*: `python -m emo_viz cut` writes a checkpoint of the others alone, which chooses
what the model does with these left out (tests/families/test_cut_families.py holds it to that).
*Evaluated*: by `python -m model.evaluate`, under subsets too. Other architectures are tried by the
shape of their routers and marked as guessed.

| Model type | Routers | Scores | Recorded | Left out live | Cut | Evaluated |
|---|---|---|---|---|---|---|
"""
OF_GROUPS = [0, 1, 2, 3, 6, 7]


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
    cells = [
        name,
        _routers(model),
        _words(model.layers[0].rule),
        recorded,
        _left_out(model, before),
    ]
    return f"| {' | '.join([*cells, *_of_checkpoint(model)])} |\n"


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


def _left_out(model: RoutedModel, before: torch.Tensor) -> str:
    try:
        with model.restricted([KEPT] * len(model.layers)):
            after = run(model.model)
    except ValueError as error:
        return f"no: {error}"
    return "yes" if after.isfinite().all() and not torch.equal(after, before) else "no"


def _of_checkpoint(model: RoutedModel) -> tuple[str, str]:
    """Whether it is cut and evaluated, from its folder."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "model"
        model.model.save_pretrained(folder)
        save_tokenizer(folder)
        return _cut(folder, len(model.layers)), _evaluated(folder, model)


def _cut(folder: Path, layers: int) -> str:
    try:
        plan_cut(folder, _subset(KEPT, layers))
    except ValueError as error:
        if "subset --per-group" not in str(error):
            return f"no: {str(error).removeprefix(f'{folder}: ')}"
        plan_cut(folder, _subset(OF_GROUPS, layers))
        return "yes, to equally many of each group"
    return "yes"


def _subset(kept: list[int], layers: int) -> ExpertSubset:
    return ExpertSubset((tuple(kept),) * layers, "by hand", (), len(kept))


def _evaluated(folder: Path, model: RoutedModel) -> str:
    opened = Opened("", folder, model, open_tokenizer(folder))
    try:
        subject = FamilySubject(LiveFamily(opened))
    except ValueError as error:
        return f"no: {error}"
    text = subject.encode("w5 w6 w7 w8 w9", 8)
    masks = np.zeros((1, len(model.layers), model.layers[0].num_routed), bool)
    masks[..., [expert for expert in KEPT if expert < masks.shape[-1]]] = True
    (whole,), (cut,) = subject.losses([text]), subject.losses([text], masks)
    return "yes" if np.isfinite(cut).all() and (whole != cut).any() else "no"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
