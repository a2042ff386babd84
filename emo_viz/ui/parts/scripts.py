"""Scripts that several components share, to go before a component's own in one module."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def scripts(*names: str) -> str:
    """Those of this folder, one after the other."""
    return "".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in names)
