"""What is made only where a visitor has opened it: each element is a message to every visitor.

choice = st.popover("Export", key="export", on_change="rerun")
if opened.is_open(choice):
    with choice:
        ...
"""

from typing import Any


def is_open(container: Any) -> bool:
    """Whether this visitor has opened a popover or expander that was made with `on_change`."""
    return bool(container.open)
