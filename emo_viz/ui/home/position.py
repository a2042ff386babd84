"""Home: what the visitor has chosen on the first screen, in the address: notch, layer and token.

The browser draws every choice at once and tells it once the visitor's hand has come to rest. The
picture is large and the choice is not, so the answer to a choice is a component of its own.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import streamlit as st

from emo_viz.analysis.glance import Glance, Glances
from emo_viz.analysis.runs import Comparison
from emo_viz.ui.parts.heard import hear, heard
from emo_viz.ui.shell import at_home, links, routes, slots
from emo_viz.ui.shell.address import one_of
from emo_viz.ui.shell.component import component

KEY = "home_place"
_JS = """
export default function ({ data }) {
  window.emoVizFirst = data;
  document.dispatchEvent(new CustomEvent("emo-viz-first"));
}
"""
_COMPONENT = component("emo_viz_first_place", html="<i hidden></i>", js=_JS)


def tell(runs: Comparison, found: Glances, start: int, key: str) -> None:
    """Tell the browser where the slider, the layer and the token stand, and read them from a link.

    The first of the runs shown counts the notches and the tokens. start: the usual notch. key: of
    the picture that it is told to.
    """
    own = [found.runs[run.id] for run in runs]
    first, layers = own[0], layers_of(own)
    keep = links.value(routes.HOME_KEEP, _keeps(first), first.keeps[start])
    layer = links.value(routes.HOME_LAYER, one_of("layer", layers), at_home.usual_layer(layers))
    token = links.token(routes.HOME_TOKEN, len(first.pieces))
    at_home.show(at_home.Seen(runs.ids, found.text.id, layer, token, keep))
    _COMPONENT(
        key=KEY,
        data={
            "of": key,
            "notch": first.keeps.index(keep),
            "layer": layers.index(layer),
            "token": None if token is None else token - 1,
            "heard": heard(KEY),
            "slots": slots.params(),  # this visitor's; the picture is everybody's
        },
    )


def layers_of(own: list[Glance]) -> tuple[int, ...]:
    """The layers that are offered: those of the run that has most."""
    return max(own, key=lambda one: len(one.layers)).layers


def taker(own: list[Glance], key: str) -> Callable[[], None]:
    """The callback for a choice that the browser tells; key: of the component."""
    first, layers = own[0], layers_of(own)

    def take() -> None:
        event = st.session_state[key]["moved"]
        hear(KEY, event)
        if not isinstance(event, dict):
            return
        notch, layer, token = (event.get(name) for name in ("notch", "layer", "token"))
        if _within(notch, len(first.keeps)):
            st.session_state[routes.HOME_KEEP] = first.keeps[notch]
        if _within(layer, len(layers)):
            st.session_state[routes.HOME_LAYER] = layers[layer]
        picked = token + 1 if _within(token, len(first.pieces)) else None
        st.session_state[routes.HOME_TOKEN] = picked

    return take


def forget_token() -> None:
    """Pick no token: that of another text says nothing."""
    st.session_state[routes.HOME_TOKEN] = None


def _keeps(first: Glance) -> Any:
    return one_of("number of experts", list(dict.fromkeys(first.keeps)))


def _within(value: object, count: int) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < count
