"""docs/families.md says what the families do."""

from table import PAGE, page


def test_the_page_of_families_is_true() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/families/table.py"
