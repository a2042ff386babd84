"""The buttons of the previous and the next document; the arrow keys press them (`shell.keys`)."""

from collections.abc import Callable, Sequence
from typing import Any

Around = tuple[str | None, str | None]  # the ones before and after, None where there is none


def around(ids: Sequence[str], at: int) -> Around:
    """The neighbours of a place in a list of documents."""
    return (ids[at - 1] if at > 0 else None, ids[at + 1] if at + 1 < len(ids) else None)


def document_steps(
    row: Any, key: str, ways: Around, show: Callable[[str], None], which: str = "document"
) -> None:
    """Draw them in `row`. which: what they go to, in words."""
    for name, arrow, document in zip(("previous", "next"), ("left", "right"), ways, strict=True):
        row.button(
            f"{name.capitalize()} document",
            icon=f":material/chevron_{arrow}:",
            help=f"Go to the {name} {which} ({arrow} arrow key)",
            key=f"{key}_{name}",
            disabled=document is None,
            on_click=show,
            args=(document,),
        )
