"""Search: the field, the count of all hits and the first lines lie on the first screen."""

import harness
import pytest
from playwright.sync_api import Browser, expect

SEEN = {
    "": [".st-key-search_text", ".st-key-search_example_0"],
    "?search_text=the": [".st-key-search_text", "h2", ".st-key-search_lines tbody tr:nth-child(8)"],
    "?search_text=1.3&search_for=Expert": [
        ".st-key-search_run",
        "h2",
        ".st-key-search_lines tbody tr:nth-child(8)",
    ],
}


@pytest.mark.parametrize("width", [1440, 900])
def test_the_first_screen_shows_the_field_and_the_lines(
    app_server: harness.Server, browser: Browser, width: int
):
    with harness.new_page(browser, width) as page:
        for query, parts in SEEN.items():
            harness.visit(page, f"{app_server.url}/Search{query}")
            for part in parts:
                found = page.locator(part).first
                expect(found).to_be_visible()
                expect(found).to_be_in_viewport(ratio=1)
