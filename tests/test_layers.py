"""What import-linter cannot see: the pages, imports that are too heavy, and sizes.

import-linter (pyproject.toml) holds the layers of emo_viz and model; it cannot import a page whose
name starts with a digit, and it does not tell an import at the top from one inside a function.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("emo_viz", "model", "pages", "tests", "docs", "benchmarks")
PAGES = [ROOT / "app.py", ROOT / "serve.py", *sorted((ROOT / "pages").glob("*.py"))]
SOURCES = [ROOT / "app.py", *sorted(f for d in FOLDERS for f in (ROOT / d).rglob("*.py"))]
HEAVY = ("torch", "transformers", "umap", "sklearn")
MAX_FILE, MAX_PAGE, MAX_FUNCTION = 500, 120, 60

# Imports each module in turn and prints what heavy library came with it.
IMPORT_ALL = """
import importlib, sys
heavy = sys.argv[1].split(",")
for module in sys.argv[2:]:
    before = set(sys.modules)
    importlib.import_module(module)
    print(*(f"{module} imports {name}" for name in heavy if name in set(sys.modules) - before),
          sep="\\n", end="")
"""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(body: list[ast.stmt]) -> Iterator[str]:
    """Modules that these statements import when they run at the top of a file."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.Try):
            yield from imports(statement.body)


def every_import(path: Path) -> set[str]:
    """Modules imported anywhere in a file, inside functions too."""
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return set(imports([node for node in found if isinstance(node, ast.Import | ast.ImportFrom)]))


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def emo_viz_modules() -> list[str]:
    return [module_of(path) for path in sorted((ROOT / "emo_viz").rglob("*.py"))]


def test_there_is_something_to_check():
    assert len(PAGES) >= 5
    assert {"emo_viz", "model", "tests"} <= {path.relative_to(ROOT).parts[0] for path in SOURCES}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_imports_nothing_heavy_and_no_model(page: Path):
    top = set(imports(ast.parse(page.read_text(encoding="utf-8")).body))
    assert not [module for module in top if is_within(module, (*HEAVY, "model"))]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_does_no_arithmetic_on_routing(page: Path):
    assert not [
        m for m in every_import(page) if is_within(m, ("model", "numpy", "duckdb", "scipy"))
    ]


def graph() -> dict[str, set[str]]:
    """Every module of the project and the modules that it names, inside functions too."""
    paths = [path for top in ("emo_viz", "model") for path in sorted((ROOT / top).rglob("*.py"))]
    named = {module_of(path): every_import(path) for path in paths}
    return {module: (found & named.keys()) - {module} for module, found in named.items()}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def circles(edges: dict[str, set[str]]) -> set[str]:
    """What is left once all are taken away that lean on nothing left, or on which nothing does."""
    left = dict(edges)
    while True:
        leaned_on = set().union(*(left[module] & left.keys() for module in left), set())
        ends = {module for module in left if not left[module] & left.keys()}
        if not (ends := ends | (left.keys() - leaned_on)):
            return set(left)
        left = {module: found for module, found in left.items() if module not in ends}


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {"b", "c"}


def test_no_imports_go_in_a_circle():
    assert not circles(graph())


def test_importing_emo_viz_loads_nothing_heavy():
    modules = [m for m in emo_viz_modules() if not m.endswith("__main__")]
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(HEAVY), *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_nothing_imports_a_page():
    importers = [
        name_of(path)
        for path in SOURCES
        if any(is_within(module, ("app", "pages")) for module in every_import(path))
    ]
    assert not importers


def test_streamlit_stays_in_ui_and_pages_and_where_the_server_keeps_what_is_cached():
    # Tests and benchmarks run pages.
    folders = [ROOT / folder for folder in ("emo_viz/ui", "tests", "benchmarks")]
    of_server = [ROOT / "emo_viz/server" / name for name in ("caches.py", "lighter.py")]
    allowed = [*PAGES, *of_server, *(path for folder in folders for path in folder.rglob("*.py"))]
    importers = [
        name_of(path)
        for path in SOURCES
        if path not in allowed and any(is_within(m, ("streamlit",)) for m in every_import(path))
    ]
    assert not importers


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sizes_and_docstring(path: Path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    limit = MAX_PAGE if path in PAGES else MAX_FILE
    assert text.count("\n") < limit, f"{name_of(path)} has more than {limit} lines"
    assert ast.get_docstring(tree), f"{name_of(path)} does not say what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{name_of(path)}: {node.name} has {length} lines"
