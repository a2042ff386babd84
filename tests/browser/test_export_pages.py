"""Every chart that a page offers to save is one that it shows."""

import harness
import pytest
from playwright.sync_api import Page, expect


@pytest.mark.parametrize(
    ("address", "charts"),
    [
        ("", 2),
        ("Token_routing", 2),
        ("Subset_ablation", 1),
        ("Routing_difference", 3),
        ("Experts", 1),
        ("Experts?expert=0.1&expert_run=emo-nano", 1),
        ("Domains", 1),
        ("Document_clusters?cluster_level=Documents&cluster_part=Domains", 1),
        ("Document_clusters?cluster_part=Domains", 1),
        ("Document_clusters?cluster_part=Confusion", 1),
    ],
)
def test_every_chart_can_be_saved(
    app_server: harness.Server, browser_page: Page, address: str, charts: int
):
    save_every_chart(browser_page, f"{app_server.url}/{address}", charts)


@pytest.mark.parametrize(
    ("view", "charts"), [("Curves", 1), ("Expert+load", 2), ("Checkpoints", 1)]
)
def test_every_chart_of_a_training_can_be_saved(
    bundled: harness.Server, browser_page: Page, view: str, charts: int
):
    save_every_chart(browser_page, f"{bundled.url}/Training?training_view={view}", charts)


def save_every_chart(page: Page, address: str, charts: int) -> None:
    """Each picture that the page offers first, `charts` or more of them, is saved."""
    harness.visit(page, address)
    main = page.get_by_test_id("stMain")
    if address.endswith("/Token_routing"):
        page.get_by_text("How it was measured").first.click()
    harness.open_popover(page, main.get_by_role("button", name="Export").first)
    choice = page.get_by_test_id("stPopoverBody")
    buttons = choice.get_by_role("button", name="as SVG")
    expect(buttons.first).to_be_visible()
    assert buttons.count() >= charts
    for button in buttons.all():
        with page.expect_download():
            button.click()
        expect(choice.get_by_role("status")).to_contain_text("is saved")
