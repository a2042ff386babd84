"""Every chart that a page offers to save is one that it shows; a report is what it shows."""

import re
from pathlib import Path
from xml.etree import ElementTree

import harness
import pytest
from playwright.sync_api import Browser, Page, expect

SVG = "{http://www.w3.org/2000/svg}"
# How many cells the first panel of a heatmap shows.
CELLS = """(root) => {
  const { shown, view, at } = root.map, { levels, slots } = at.panels[0].layer;
  const rows = [Math.floor(view.top), Math.min(shown.count, Math.ceil(view.bottom))];
  return levels.slice(rows[0] * slots, rows[1] * slots).filter(Boolean).length;
}"""
ODD = "<script>window.ran = 1</script> ]]> \x01 & <b>"
# Stands in a component's text as a document's own would.
WITH_ODD = """(odd) => {
  const inside = (root) => [...root.querySelectorAll("*")].filter((one) => one.shadowRoot)
    .flatMap((one) => [one.shadowRoot, ...inside(one.shadowRoot)]);
  inside(document).map((root) => root.querySelector(".first .text span"))
    .find(Boolean).textContent = odd;
}"""


@pytest.mark.parametrize(
    ("address", "charts", "said"),
    [
        (
            "Token_routing",
            2,
            [
                *("EMO, layer 1", "Routed expert (id)"),  # of a canvas on the page
                *("gate weight (square-root scale)", "layer 1; order", "shown: 1 to "),
            ],
        ),
        (
            "Subset_ablation?k=4",
            1,
            ["EMO", "Standard MoE", "this document", "16", "nats a token", "experts kept: 4"],
        ),
        ("Routing_difference", 3, ["share of experts that differ", "document heldout-"]),
        ("Experts", 1, []),
        ("Experts?expert=0.1&expert_run=emo-nano", 1, ["expert of EMO: 0.1"]),
        ("Domains", 1, ["layer "]),
        (
            "Document_clusters?cluster_level=Documents&cluster_part=Domains",
            2,
            ["EMO", " of routing", "court"],
        ),
        ("Document_clusters?cluster_part=Domains", 2, ["EMO", " of routing", "court"]),
        ("Document_clusters?cluster_part=Confusion", 1, []),
    ],
)
def test_every_chart_can_be_saved(
    app_server: harness.Server, browser_page: Page, address: str, charts: int, said: list[str]
):
    pictures = save_every_chart(browser_page, f"{app_server.url}/{address}", charts)
    texts = texts_of(pictures)
    assert not [words for words in said if words not in texts]
    if address == "Token_routing":  # whose first panel is drawn cell by cell
        panel = next(one for one in pictures[0].iter(f"{SVG}svg") if one.get("overflow"))
        drawn = [path.get("d", "").count("M") for path in panel.iter(f"{SVG}path")]
        assert sum(drawn) == browser_page.locator(".st-key-routing_map .heatmap").evaluate(CELLS)


def test_home_is_saved_as_it_is_seen_whatever_its_text_says(
    app_server: harness.Server, browser: Browser, browser_page: Page
):
    harness.visit(browser_page, app_server.url)
    browser_page.evaluate(WITH_ODD, ODD)
    texts = texts_of(save_every_chart(browser_page, "", 2))
    for words in ("experts a layer", "least used", "layer "):
        assert words in texts
    # As the slider says it, which the page is told once it has come to rest.
    assert re.search(r"number of experts: \d+ of \d+", texts)
    with browser_page.expect_download() as download:
        browser_page.get_by_role("button", name="One document as SVG").click()
    drawn = Path(download.value.path()).read_text(encoding="utf-8")
    assert "text-decoration-style: solid; text-decoration-thickness: 2px" in drawn
    assert ODD.replace("\x01", "\ufffd").replace(" ", "") in texts.replace(" ", "")
    browser_page.keyboard.press("Escape")
    browser_page.evaluate(WITH_ODD, ODD)
    harness.open_popover(browser_page, browser_page.get_by_role("button", name="Save", exact=True))
    with browser_page.expect_download() as download:
        browser_page.get_by_role("button", name="Report as HTML").click()
    with browser.new_context(offline=True) as offline:
        report = offline.new_page()
        report.goto(Path(download.value.path()).rename(f"{download.value.path()}.html").as_uri())
        first = report.locator("figure").first
        for words in ("experts a layer", "EMO", "least used", "]]>"):
            expect(first).to_contain_text(words)
        expect(first.locator("img")).to_have_count(4)  # a heatmap and a map of each run
        expect(first.locator("[style*='text-decoration-thickness:2px']")).not_to_have_count(0)
        expect(report.locator(".js-plotly-plot").first).to_be_visible()
        links = report.locator("a[href]").all()
        assert links and all(
            str(one.get_attribute("href")).startswith(app_server.url) for one in links
        )
        assert report.evaluate("window.ran") is None


@pytest.mark.parametrize(
    ("view", "charts"), [("Curves", 1), ("Expert+load", 2), ("Checkpoints", 1)]
)
def test_every_chart_of_a_training_can_be_saved(
    bundled: harness.Server, browser_page: Page, view: str, charts: int
):
    save_every_chart(browser_page, f"{bundled.url}/Training?training_view={view}", charts)


def texts_of(pictures: list[ElementTree.Element]) -> str:
    texts = [text for picture in pictures for text in picture.iter(f"{SVG}text")]
    return " ".join("".join(text.itertext()) for text in texts)


def save_every_chart(page: Page, address: str, charts: int) -> list[ElementTree.Element]:
    """Each picture that the page offers first, `charts` or more of them, as it is saved. address:
    "" where the page is."""
    if address:
        harness.visit(page, address)
    main = page.get_by_test_id("stMain")
    main.get_by_role("button", name="Export").first.click()
    choice, pictures = page.get_by_role("dialog"), list[ElementTree.Element]()
    buttons = choice.get_by_role("button", name="as SVG")
    expect(buttons.first).to_be_visible()
    assert buttons.count() >= charts
    for button in buttons.all():
        with page.expect_download() as download:
            button.click()
        expect(choice.get_by_role("status")).to_contain_text("is saved")
        root = ElementTree.parse(download.value.path()).getroot()
        pictures.append(root)
        styles = [one.get("style", "") for one in root.iter()]
        dots = [style for style in styles if "stroke-dasharray:0px" in style]
        assert all("stroke-linecap:round" in style for style in dots)  # else nothing is drawn
    return pictures
