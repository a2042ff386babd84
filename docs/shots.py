"""Screenshots of the real app with its bundled assets.

make docs-shots                                          docs/images/*.png, for the README
PYTHONPATH=tests/browser python docs/shots.py --check shots   every page at two widths, both themes
"""

import io
from pathlib import Path

import click
import harness
from PIL import Image
from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).parent / "images"
MAX_BYTES = 200_000
HEIGHT = 900
WIDTHS = (1440, 900)
SCHEMES = ("light", "dark")
# Streamlit scrolls inside this element, so the window has to grow to show all of it.
CONTENT_HEIGHT = "document.querySelector('[data-testid=\"stMain\"]').scrollHeight"
NOTHING_MOVES = "document.getAnimations().every((one) => one.playState !== 'running')"


def readme_images(browser: Browser, url: str) -> None:
    """The first screen of every page, as the README shows it."""
    for address in harness.addresses():
        with harness.new_page(browser) as page:
            harness.visit(page, f"{url}/{address}")
            _write(IMAGES / f"{_file_name(address)}.png", _small_png(page))


def check_images(browser: Browser, url: str, folder: Path) -> None:
    """Every page from top to bottom, at each width and in each theme."""
    for address in harness.addresses():
        for width in WIDTHS:
            for scheme in SCHEMES:
                with harness.new_page(browser, width, scheme=scheme) as page:
                    harness.visit(page, f"{url}/{address}")
                    _show_all(page, width)
                    name = f"{_file_name(address)}-{width}-{scheme}.png"
                    _write(folder / name, page.screenshot())


def _show_all(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": page.evaluate(CONTENT_HEIGHT)})
    harness.settle(page)
    page.wait_for_function(NOTHING_MOVES)  # the side bar folds, and pictures follow it
    page.evaluate(harness.TWO_FRAMES)


def _file_name(address: str) -> str:
    return address.lower().replace("_", "-") or "home"


def _small_png(page: Page) -> bytes:
    """A screenshot in 256 colours; ValueError if it takes more than MAX_BYTES even so."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    buffer = io.BytesIO()
    shot.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    if buffer.tell() > MAX_BYTES:
        raise ValueError(f"A screenshot has {buffer.tell():,} bytes; at most {MAX_BYTES:,} may be.")
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
    click.echo(f"{path} {len(content) / 1000:.0f} kB")


@click.command()
@click.option("--check", type=click.Path(file_okay=False, path_type=Path), help="Folder to fill.")
def main(check: Path | None) -> None:
    """Take the README's screenshots, or with --check DIR every page in every look."""
    with harness.serve(None) as server, harness.launch() as browser:
        if check is None:
            readme_images(browser, server.url)
        else:
            check_images(browser, server.url, check)


if __name__ == "__main__":
    main()
