"""Every name that stands in an address is written down once."""

import ast
from pathlib import Path

from emo_viz.ui.shell import routes

UI = Path(routes.__file__).parents[1]
NAMES = {
    value
    for name, value in vars(routes).items()
    if name.isupper() and isinstance(value, str) and ("_" in value or value.endswith(".py"))
}


def strings(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_no_address_is_spelt_out_elsewhere():
    files = [path for path in UI.rglob("*.py") if path != Path(routes.__file__)]
    assert len(files) > 20
    spelt = {path.name: found for path in files if (found := strings(path) & NAMES)}
    assert not spelt


def test_every_page_has_its_file():
    pages = [value for value in NAMES if value.endswith(".py")]
    assert len(pages) == 1 + len(list((UI.parents[1] / "pages").glob("*.py")))
    assert all((UI.parents[1] / page).is_file() for page in pages)


def test_links_between_pages_name_the_page_s_own_parameters():
    assert routes.routing_of_document("d") == {routes.ROUTING_DOCUMENT: "d"}
    assert routes.ablation_of_text("t")[routes.SUBSET_TEXT] == "t"
    assert routes.routing_of_text("t")[routes.ROUTING_TEXT] == "t"
    assert routes.ablation_of_document("d") == {routes.SUBSET_DOCUMENT: "d"}
