"""Subset ablation page: a grid of all routed experts of each run, each switched by a click or key.

A Streamlit component without an iframe; what it is told comes back through the address, so a step
back in the browser's history takes one switch back.
"""

from typing import Any

import numpy as np
import streamlit as st

from emo_viz.analysis.curves import likelihood_kept
from emo_viz.server.library import LoadedModel
from emo_viz.ui.ablation import by_hand
from emo_viz.ui.ablation import live as running
from emo_viz.ui.ablation.by_hand import Switch
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import Choice, Study
from emo_viz.ui.ablation.parts import loss_change, runs_data, view
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import count, share

KEY, OPEN = "subset_grid", "subset_by_hand"
_VIEW = view("grid", '<div class="switches"></div>')


def offer(study: Study, choice: Choice, live: Live) -> None:
    """The grid, open where a link has switched something; nothing is computed before."""
    if choice.switched and OPEN not in st.session_state:
        st.session_state[OPEN] = True
    place = st.expander(
        "Switch single experts by hand",
        icon=":material/toggle_on:",
        key=OPEN,
        on_change="rerun",
    )
    if place.open:
        with place:
            _draw(study, choice, live)


def _draw(study: Study, choice: Choice, live: Live) -> None:
    usual = {
        one.run: running.choose_subset(study, one, live.domain, choice, choice.keep_k)
        for one in study.models
    }
    drawn = zip(runs_data(study.runs), study.models, strict=True)
    _VIEW(
        key=KEY,
        data={
            "runs": [
                named
                | {
                    "numbers": _numbers(live, one, usual[one.run].experts),
                    "layers": list(_layers(live, one, usual[one.run].experts)),
                }
                for named, one in drawn
            ],
            "most": by_hand.MOST,
            "switches": len(choice.switched),
        },
        on_switched_change=lambda: _taken(study, choice, usual),
    )
    for sentence in _refused(study, choice, usual):
        st.caption(sentence)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            "Reset",
            icon=":material/restart_alt:",
            key="subset_grid_reset",
            disabled=not choice.switched,
            on_click=_reset,
            help="As the slider chooses. A step back in the browser undoes one switch.",
        )
        st.caption(
            f"{_shared(study)}{count(len(choice.switched), 'expert')} switched; measured on "
            f"{count(live.num_tokens, 'token')} of this document. Switches stay when the slider "
            "moves. The sizes and all documents' curve are those of the slider alone."
        )


def _shared(study: Study) -> str:
    """Why there are fewer cells than experts."""
    always = max(study.config(run).num_shared_experts for run in study.runs.ids)
    if not always:
        return ""
    stays = "stays" if always == 1 else "stay"
    return f"Routed experts; {count(always, 'shared expert')} always {stays}. "


def _layers(live: Live, loaded: LoadedModel, usual: running.Experts) -> Any:
    """Of each layer with a router: its own number, how many experts, which are kept and changed."""
    from model.run.subset import slots_in_layer

    now, geometry = live.subsets[loaded.run].experts, loaded.live.geometry
    for layer, routed in enumerate(loaded.routed):
        if routed:
            yield {
                "layer": layer,
                "number": int(loaded.live.own_layers[layer]),
                "routed": routed,
                "least": slots_in_layer(geometry, layer),
                "kept": [e for e in now[layer] if e < routed],
                "changed": sorted(set(now[layer]) ^ set(usual[layer])),
            }


def _numbers(live: Live, loaded: LoadedModel, usual: running.Experts) -> str:
    """What the switches change on this document, measured now."""
    run = loaded.run
    before = running.losses(loaded, live.token_ids, usual)
    losses = [float(np.nanmean(each)) for each in (before, live.cut[run])]
    kept = [share(likelihood_kept(loss - float(np.nanmean(live.full[run])))) for loss in losses]
    if live.subsets[run].experts == usual:
        return f"as chosen: {losses[0]:.3f} nats a token, likelihood kept {kept[0]}"
    return f"{loss_change(*losses)}, likelihood kept {kept[0]} → {kept[1]}"


def _refused(study: Study, choice: Choice, usual: Any) -> Any:
    """A sentence for each layer that would fall below what its tokens use."""
    for one in study.models:
        own = running.switches_of(study, choice, one.run)
        found: dict[int, list[int]] = {}
        for switch in by_hand.applied(usual[one.run], own, one.live.geometry)[1]:
            found.setdefault(switch.layer, []).append(switch.expert)
        for layer, experts in found.items():
            yield (
                f"Layer {one.live.own_layers[layer]} of {name(study.runs[one.run])} keeps as many "
                f"experts as each token uses: {', '.join(map(str, experts))} stays."
            )


def _taken(study: Study, choice: Choice, usual: Any) -> None:
    """A cell was switched: what the browser says is taken only if it can be."""
    event = st.session_state[KEY]["switched"]
    said = event if isinstance(event, dict) else {}
    layer, expert, on = said.get("layer"), said.get("expert"), bool(said.get("on"))
    run = next((run for run in study.runs if run.id == said.get("run")), None)
    if run is None or not isinstance(layer, int) or not isinstance(expert, int):
        return
    switch = Switch(run.slot, layer, expert, on)
    if not kind_of(study).knows(switch):
        return
    is_usual = on == (switch.expert in usual[run.id].experts[switch.layer])
    now = by_hand.changed(choice.switched, switch, is_usual)
    if len(now) <= by_hand.MOST:
        st.session_state[routes.SUBSET_SWITCHED] = now


def _reset() -> None:
    st.session_state[routes.SUBSET_SWITCHED] = ()


def kind_of(study: Study) -> by_hand.SwitchesKind:
    """What the switches of these runs can be."""
    return by_hand.kind((study.runs[one.run].slot, one) for one in study.models)
