"""axe-core, which finds what keeps people with a screen reader, a keyboard or weak sight out."""

from typing import Any

import npm
from playwright.sync_api import Page

SERIOUS = ("serious", "critical")
# Held as well, though axe counts them as moderate.
ALSO = ("page-has-heading-one", "heading-order")


def violations(page: Page) -> list[str]:
    """What is wrong with the page as it stands now, a line for each element."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(npm.installed(npm.AXE).read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = page.evaluate(
        "async () => (await axe.run('html', {resultTypes: ['violations']})).violations"
    )
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]}: {node['failureSummary']}"
        for one in found
        if one["impact"] in SERIOUS or one["id"] in ALSO
        for node in one["nodes"]
    ]
