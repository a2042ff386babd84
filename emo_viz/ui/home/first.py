"""Home: one document, where both models route it, and a slider that takes experts away.

A Streamlit component without an iframe: every notch is sent at once, so that the picture follows
the slider without asking the server. Tokens reach the page as data and are written as text.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from emo_viz.analysis.curves import likelihood_kept
from emo_viz.analysis.glance import KEEP_K, Glance, Glances
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.analysis.widths import in_words, kept_of
from emo_viz.figures import home as figures
from emo_viz.figures.theme import BETTER_NAME, MARKED_CHANGE, WORSE_NAME, colour_of
from emo_viz.ui.home import position, sampled
from emo_viz.ui.home.sampled import Sampled
from emo_viz.ui.parts.player import PLAYER_CSS, PLAYER_JS
from emo_viz.ui.parts.scripts import scripts
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell import routes, subjects
from emo_viz.ui.shell.component import component, packed
from emo_viz.ui.shell.words import by_hand, count, escape_markdown, rest_cut, share, visible

KEY = "home_first"
_HTML = '<div class="first" role="group" aria-label="One document and a cut of the experts"></div>'
_FOLDER = Path(__file__).parent
_CSS, _MAP, _JS = (
    _FOLDER.joinpath(name).read_text(encoding="utf-8")
    for name in ("first.css", "small_map.js", "first.js")
)
_COMPONENT = component(
    "emo_viz_first_screen",
    html=_HTML,
    css=PLAYER_CSS + _CSS,
    js=PLAYER_JS + scripts("decode", "sized") + _MAP + _JS,
)

Part = dict[str, Any]


def draw(runs: Comparison, found: Glances, key: str) -> None:
    """Draw the picture of these runs. key: changes with what is shown."""
    drawn = tuple((run.id, run.slot, run.label) for run in runs)
    own = [found.runs[run.id] for run in runs]
    small = sampled.tokens(runs)
    version = small.version if small else ""
    start, of, data = _data(drawn, runs, found, small, f"{key} {version}")
    with st.container(gap=None):
        position.tell(runs, found, start, of)
        _COMPONENT(key=KEY, data=data, on_moved_change=position.taker(own, KEY))


@st.cache_resource(max_entries=8, show_spinner=False)
def _data(
    drawn: tuple[tuple[Any, ...], ...],
    _runs: Comparison,
    _found: Glances,
    _small: Sampled | None,
    key: str,
) -> tuple[int, str, bytes]:
    """The usual notch, a key of what is shown, and all that the browser needs; cached by what it is
    of. drawn: id, slot and label of each run, as a run's colour and name are drawn too."""
    shown = picture(_runs, _found, _small)
    of = hashlib.sha256(repr((drawn, key)).encode()).hexdigest()
    return shown["start"], of, packed(shown | {"key": of})


def picture(runs: Comparison, found: Glances, small: Sampled | None) -> Part:
    """The first screen of one run or two as data for the browser; small: the map beside it."""
    own = [found.runs[run.id] for run in runs]
    first = own[0]
    layers = position.layers_of(own)
    drawn = [
        figures.of_run(run, one, [visible(piece) for piece in one.pieces], layers)
        for run, one in zip(runs, own, strict=True)
    ]
    return {
        "runs": drawn,
        "map": _map(runs, small, found.text.domain),
        "notches": [_notch(runs, own, place) for place in range(len(first.keeps))],
        "start": _start(first),
        "layers": list(layers),
        "layer": len(layers) - 1,
        "linked": len({one.pieces for one in own}) == 1,
        "slider": "Experts kept in every layer",
        "axis": [f"← experts most used in {_where(own)}", "least used →"],
        "hint": _hint(found, own),
        "palette": figures.palette(),
        "reach": figures.REACH,
        "unit": figures.UNIT,
        "marked": MARKED_CHANGE,
        "legend": f"{BETTER_NAME.capitalize()} is better, {WORSE_NAME} worse; dotted or underlined "
        f"from {MARKED_CHANGE:g} nat on.",
    }


def _map(runs: Comparison, found: Sampled | None, domain: str) -> Part | None:
    """Where tokens of the text's domain lie among those of others; None where that is not known."""
    if found is None or domain not in found.domains:
        return None
    words, all_of_them = subjects.in_words(domain), len(set(found.domains.tolist()))
    return {
        "places": [figures.map_of(found.places[run.id]) for run in runs],
        "own": figures.rows_of(found.domains == domain),
        "title": "Tokens by their experts",
        "says": f"{count(len(found.domains), 'token')} of {count(all_of_them, 'domain')}, placed "
        f"by routing; coloured: {visible(words)}.",
        "does": "Open in Document clusters",
        "page": routes.address(routes.CLUSTERS),
        "way": {routes.CLUSTER_DOMAIN: domain},
    }


def _where(own: list[Glance]) -> str:
    """What the experts were ordered by."""
    return "its domain" if all(one.ranked_on for one in own) else "this text"


def _start(first: Glance) -> int:
    """The notch nearest to the number of experts that the page speaks of, below all of them."""
    places = range(max(1, len(first.keeps) - 1))
    return min(places, key=lambda place: abs(first.keeps[place] - KEEP_K))


def _notch(runs: Comparison, own: list[Glance], place: int) -> Part:
    keep_k, first = own[0].keeps[place], own[0]
    doubled = (keep_k / first.keeps[0]).is_integer() and _is_power(keep_k // first.keeps[0])
    last = place == len(first.keeps) - 1
    return {
        "says": _says(runs, own, place),
        "label": f"{kept_of(keep_k, first.experts)}",
        "tick": str(keep_k) if doubled or last else "",
    }


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0


def _says(runs: Comparison, own: list[Glance], place: int) -> list[Part]:
    """The sentence of one notch, in parts."""
    first = own[0]
    if place == len(first.keeps) - 1:
        whole = "both models are" if len(own) > 1 else "the model is"
        said = f" of every layer: {whole} whole."
        said += by_hand(" Drag the slider, or press Play, to take some away.")
        return [_strong(f"All {in_words(first.experts)} experts"), _plain(said)]
    even = len({(one.keeps[place], one.experts) for one in own}) == 1
    parts = [_plain("With "), _strong(kept_of(first.keeps[place], first.experts))] if even else []
    parts += [_plain(" experts a layer, ")] if even else []
    before = None
    for run, one in zip(runs, own, strict=True):
        cut = one.losses is not None
        parts += [_plain("; ")] if before is not None else []
        kept = "" if even else kept_of(one.keeps[place], one.experts)
        parts += _said_of(run, one, place, kept, said=before == cut)
        before = cut
    return [*parts, _plain(".")]


def _said_of(run: Run, one: Glance, place: int, kept: str, said: bool) -> list[Part]:
    """What is left of one run at a notch. kept: its own number of experts, "" where it was said;
    said: the run before it has said what the number is of."""
    colour, change = colour_of(run), one.change
    name = [_strong(run.label, colour), _plain(f", with {kept} experts," if kept else "")]
    if change is None:
        verb, of = " sends ", " of this text's routing to the experts kept"
        value = float(one.kept_share[place].mean())
    else:
        verb, of = " predicts this text ", " as well as with all"
        value = likelihood_kept(float(np.mean(change[place], dtype=np.float64)))
    number = _strong(share(value).replace(" ", "\u00a0"), colour)
    return [*name, _plain(" "), number] if said else [*name, _plain(verb), number, _plain(of)]


def _strong(text: str, colour: str = "") -> Part:
    return {"text": text, "strong": True, "colour": colour}


def _plain(text: str) -> Part:
    return {"text": text, "strong": False}


def _hint(found: Glances, own: list[Glance]) -> str:
    """What is shown, under the picture, as long as nothing is pointed at."""
    text, first = found.text, own[0]
    read = count(len(first.pieces), "token")
    title = visible(subjects.title(text.title, text.id))
    domain = f", {visible(subjects.in_words(text.domain))}" if text.domain else ""
    return (
        f"From above, each row is one of {read} of “{title}”{domain}; each cell an "
        f"expert that it uses{by_hand('; a click keeps a token')}. Grey: experts that the cut "
        "takes away."
    )


def measured(runs: Comparison, found: Glances) -> str:
    """How the picture was made, as Markdown."""
    text, own = found.text, [found.runs[run.id] for run in runs]
    parts = [part for part in (text.domain, text.source, text.licence, f"id {text.id}") if part]
    tokens = in_each(runs, lambda run: count(len(found.runs[run].pieces), "token"))
    read = tokens if len({len(one.pieces) for one in own}) > 1 else _tokens(own[0])
    said = [
        f"The text: {escape_markdown(text.title)} ({escape_markdown(', '.join(parts))}), {read}"
        f"{rest_cut(text.rest)}. {_chosen(own)}",
        "A cell is a routed expert of one token in the layer that is chosen; its strength is the "
        "expert's share of the token's gate weights. Routing is that of the whole model.",
    ]
    if any(one.losses is not None for one in own):
        said.append(
            "At each notch the models are run anew with the kept experts alone, on all tokens of "
            "the text at once. How well a text is predicted is the likelihood of a token: e to the "
            "minus of the mean loss increase is left of it. More than 100 % means that the cut "
            "model predicts this text better than the whole one."
        )
    if any(one.losses is None for one in own):
        said.append("Without a checkpoint that can be cut there are no losses.")
    return "\n\n".join(said)


def _tokens(one: Glance) -> str:
    return count(len(one.pieces), "token")


def _chosen(own: list[Glance]) -> str:
    """What the kept experts were chosen on, and how many serve every token besides."""
    number = own[0].ranked_on
    others = f"on {count(number, 'other document')} of its domain" if number else "on this text"
    shared = count(own[0].shared, "shared expert")
    besides = f", and {shared} always" if own[0].shared else ""
    return f"Kept are the experts with the highest mean router probability {others}{besides}."
