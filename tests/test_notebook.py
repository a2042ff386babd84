"""docs/notebook.ipynb runs from top to bottom, and what it shows is so. Jupyter is not needed."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from emo_viz.trace.documents import documents_of

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_no_output_is_stored_that_may_be_out_of_date():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells())


@pytest.mark.timeout(1800)
def test_the_notebook_runs_and_shows_what_it_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {}
    shown = [run_cell("".join(cell["source"]), names) for cell in code_cells()]
    assert [type(value).__name__ for value in shown].count("Figure") == 3
    emo, standard = names["two_recipes"]["emo-nano"], names["recipe_and_code"]["emo-nano"]
    assert emo.overlap.mean() > 2 * standard.overlap.mean()
    assert names["agreements"]["emo-nano"].nmi.mean > 2 * names["agreements"]["emo-nano"].chance_nmi
    rises = {name: cut - whole for name, (whole, cut) in names["losses"].items()}
    assert rises["emo-nano"] < rises["std-nano"]
    whole, cut = names["parameters"]
    assert cut < whole / 3
    assert shown[-1][1] == pytest.approx(names["losses"]["emo-nano"][1], abs=2e-3)


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, if that is one, is what a notebook shows."""
    tree = ast.parse(source)
    end = tree.body[-1]
    if isinstance(end, ast.Expr):
        tree.body.pop()
    exec(compile(tree, "notebook", "exec"), names)
    if isinstance(end, ast.Expr):
        return eval(compile(ast.Expression(end.value), "notebook", "eval"), names)


def test_texts_at_hand_are_documents():
    both = documents_of({"a b": ["one", "two"], "c": "three"})
    assert both["id"].tolist() == ["a b-1", "a b-2", "c-1"]
    assert documents_of(["x"])["domain"].tolist() == ["own"]
    with pytest.raises(ValueError, match="no documents"):
        documents_of([])
