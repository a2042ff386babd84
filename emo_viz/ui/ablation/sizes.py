"""Subset ablation page: parameters, memory and modelled speed at each stop of the slider."""

from typing import Any

import streamlit as st

from emo_viz.analysis.cut_size import STEP_TEXTS, Weights, uniform_weights
from emo_viz.server.library import LoadedModel
from emo_viz.ui.ablation.page import Study
from emo_viz.ui.shell.words import compact, stored

HEAD = ("Run", "Parameters", "Memory (as run here)", "Modelled speed")
MODELLED = (
    f"Modelled speed is no measurement: a step that writes one token for each of {STEP_TEXTS} "
    "texts is taken to read each weight that it uses once, to be bound by that alone, and to "
    "spread its tokens evenly over the experts."
)


@st.cache_resource(max_entries=16, show_spinner=False)
def weights(_loaded: LoadedModel, key: str) -> Weights | None:
    """What the model is made of; None where its experts were not found."""
    from model.families.blocks import moe_blocks

    model, geometry = _loaded.live.model, _loaded.live.geometry
    blocks = list(moe_blocks(model))
    layers = range(geometry.num_hidden_layers)
    experts = tuple(map(geometry.experts_in_layer, layers))
    own = [
        sum(part.numel() for each in (block.experts, block.router) for part in each.parameters())
        // max(1, number)
        for block, number in zip(blocks, [n for n in experts if n], strict=False)
    ]
    shared = geometry.num_shared_experts
    return uniform_weights(_saved(model), own, experts, geometry.num_experts_per_tok, shared)


def _saved(model: Any) -> int:
    """Numbers that its checkpoint holds, as the Library counts them: learned biases of routers that
    are no parameters too, and once what is used twice."""
    parts = model.state_dict().values()
    return sum({part.data_ptr(): part.numel() for part in parts}.values())


def facts(study: Study, stops: list[int]) -> dict[int, list[list[str]]]:
    """Rows of the table below the slider, by stop: one a run, or one where both are alike."""
    found = [(one.run, weights(one, one.key), _bytes(one)) for one in study.models]
    known = [(study.runs[run].label, run, own, size) for run, own, size in found if own is not None]
    alike = len({each[2:] for each in known}) == 1 and len(known) > 1
    shown = [("Each run", *known[0][1:])] if alike else known
    if not shown:
        return {}
    return {
        stop: [
            [label, *_row(own, study.keep_of(run, stop), size)] for label, run, own, size in shown
        ]
        for stop in stops
    }


def _bytes(loaded: LoadedModel) -> int:
    """Of a parameter, in the type that the pages run the model in."""
    return int(next(loaded.model.parameters()).element_size())


def _row(own: Weights, keep_k: int, size: int) -> list[str]:
    kept = own.kept(keep_k)
    return [
        f"{compact(kept)} of {compact(own.parameters)}",
        f"{stored(kept * size)} of {stored(own.parameters * size)}",
        f"{own.speed(keep_k):.2f} times",
    ]
