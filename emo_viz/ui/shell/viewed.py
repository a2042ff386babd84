"""What the controls of a page hold, in words: "layer 2; experts kept: 32; domain chess".

A page need not say of a picture or table how it is filtered: whatever is chosen stands in the
address, and what stands in the address is said.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from emo_viz.ui.shell import links, routes

# Of every page, or of no picture.
_APART = {routes.SLOT_A, routes.SLOT_B, routes.PRESENT, routes.TOUR, routes.PINS}
# What a view is of: said at its default too.
_DEFINING = {
    *(routes.HOME_DOCUMENT, routes.HOME_KEEP, routes.HOME_LAYER, routes.HOME_SEEN),
    *(routes.ROUTING_DOCUMENT, routes.ROUTING_LAYER, routes.ROUTING_ORDER),
    *(routes.SUBSET_DOMAIN, routes.SUBSET_METHOD, routes.SUBSET_KEEP, routes.SUBSET_DOCUMENT),
    *(routes.CLUSTER_K, routes.CLUSTER_TOKEN_K, routes.CLUSTER_LAYER),
    *(routes.CLUSTER_COLOUR, routes.CLUSTER_TOKEN_COLOUR),
    *(routes.DIFFERENCE_OF, routes.DIFFERENCE_DOMAIN, routes.DIFFERENCE_DOCUMENT),
    *(routes.DOMAINS_LAYER, routes.DOMAINS_KEEP, routes.EXPERTS_LAYER),
    *(routes.DOMAINS_FROM, routes.DOMAINS_SHOWN),
    *(routes.KERNEL_ARCH, routes.KERNEL_SIZE),
    *(routes.TRAINING_LAYER, routes.TRAINING_SMOOTH),
}
# What one element of a page alone shows, by that element's key.
_OF_ONE = dict.fromkeys(
    (routes.HOME_DOCUMENT, routes.HOME_KEEP, routes.HOME_LAYER, routes.HOME_TOKEN), "home_first"
) | dict.fromkeys((routes.ROUTING_LAYER, routes.ROUTING_ORDER, routes.ROUTING_ROWS), "routing_map")
# And what one element does not follow, though all others do.
_OF_OTHERS = {routes.HOME_SEEN: "home_first"}
# What says nothing where another control holds this.
_UNSAID = {routes.ROUTING_LAYER: (routes.ROUTING_PICTURE, routes.ALL_LAYERS)}


@dataclass(frozen=True)
class Control:
    """One control of the page. name: in the address. value: in words, "" for none. usual: whether
    that goes without saying. only: the key of the one element that follows it, "" for all; apart:
    of the one that does not."""

    name: str
    what: str
    value: str
    usual: bool
    only: str = ""
    apart: str = ""

    @property
    def label(self) -> str:
        """As a heading: "Experts kept"."""
        return self.what[:1].upper() + self.what[1:]

    @property
    def form(self) -> str:
        """Its part of a line, with a place for the value: "layer {}", "experts kept: {}",
        "smoothing {} %"."""
        noun, _, unit = self.what.partition(", ")
        return f"{noun}{':' if ' ' in noun else ''} {{}}{unit and ' '}{unit}"

    @property
    def said(self) -> str:
        """ "layer 2" """
        return self.form.replace("{}", self.value)


def controls() -> list[Control]:
    """Those of the page that have words for what they hold, in its order."""
    return list(_controls())


def _controls() -> Iterator[Control]:
    held = links.held()
    chosen_of = {name: chosen for name, (_, chosen, _) in held.items()}
    for name, (kind, chosen, default) in held.items():
        if kind.what and name not in _APART:
            other, unless = _UNSAID.get(name, ("", None))
            unsaid = unless is not None and chosen_of.get(other) == unless
            value = "" if unsaid else _words(kind, chosen)
            usual = not value or (chosen == default and name not in _DEFINING)
            of = _OF_ONE.get(name, ""), _OF_OTHERS.get(name, "")
            yield Control(name, kind.what, value, usual, *of)


def _words(kind: Any, chosen: Any) -> str:
    return "" if chosen is None else ", ".join(kind.write(chosen))
