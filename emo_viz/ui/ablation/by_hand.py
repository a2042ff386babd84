"""Subset ablation page: single experts switched on or off by hand, on top of the chosen subset.

A switch says how an expert is to be, whatever the slider chooses: it stays when the slider moves.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from emo_viz.server.library import LoadedModel
from emo_viz.ui.shell.address import Found, Kind

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset

MOST = 200  # switches in an address: browsers and servers take no endless ones
SLOTS = "ab"
_WRITTEN = re.compile(r"([ab])(\d{1,5})([ox])(\d{1,6})", re.ASCII)  # a2x17: out, a2o17: on


@dataclass(frozen=True)
class Switch:
    """One routed expert of the run in a slot (0 or 1), on or off. layer: its place in a subset."""

    slot: int
    layer: int
    expert: int
    on: bool

    @property
    def place(self) -> tuple[int, int, int]:
        return self.slot, self.layer, self.expert


Switches = tuple[Switch, ...]


@dataclass(frozen=True)
class SwitchesKind(Kind[Switches]):
    """Switches as they stand in an address, layers by the model's own numbers.

    layers: by slot, the own number of each layer; routed: by slot, its routed experts.
    """

    layers: Mapping[int, Sequence[int]] = field(default_factory=dict)
    routed: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def read(self, asked: Sequence[str]) -> Found[Switches]:
        """Those that can be used, each expert once; the others are named."""
        found, rest = dict[tuple[int, int, int], Switch](), list[str]()
        for text in ".".join(asked).split("."):
            switch = self._switch(text)
            if switch is None or switch.place in found or len(found) == MOST:
                rest.append(text)
            else:
                found[switch.place] = switch
        return Found(tuple(found.values()), self.problem(rest) if rest else "")

    def _switch(self, text: str) -> Switch | None:
        match = _WRITTEN.fullmatch(text)
        if match is None:
            return None
        slot, number, on, expert = match.groups()
        own = list(self.layers.get(SLOTS.index(slot), ()))
        if int(number) not in own:
            return None
        switch = Switch(SLOTS.index(slot), own.index(int(number)), int(expert), on == "o")
        return switch if self.knows(switch) and self.text(switch) == text else None

    def knows(self, switch: Switch) -> bool:
        """Whether it is of a routed expert that is here."""
        routed = self.routed.get(switch.slot, ())
        return 0 <= switch.layer < len(routed) and 0 <= switch.expert < routed[switch.layer]

    def text(self, switch: Switch) -> str:
        number = self.layers[switch.slot][switch.layer]
        return f"{SLOTS[switch.slot]}{number}{'o' if switch.on else 'x'}{switch.expert}"

    def write(self, value: Switches) -> list[str]:
        return [".".join(map(self.text, value))]


def kind(models: Iterable[tuple[int, LoadedModel]]) -> SwitchesKind:
    """The switches that the models of these slots can have."""
    some = list(models)
    layers = {slot: tuple(one.live.own_layers) for slot, one in some}
    made = SwitchesKind(
        parse=lambda text: (),
        form=str,
        fits=lambda value: all(map(made.knows, value)),
        sentence="The link switches by hand {asked}: no expert here, named before, or beyond "
        f"{MOST} of them; the others are switched.",
        layers=layers,
        routed={slot: one.routed for slot, one in some},
    )
    return made


def applied(
    subset: "ExpertSubset", switches: Iterable[Switch], geometry: Any
) -> tuple["ExpertSubset", list[Switch]]:
    """A subset with these switches, and those that would leave a layer fewer routed experts than
    each token uses, which are left out."""
    from model.run.subset import routed_in_layer, slots_in_layer

    kept, refused = [set(layer) for layer in subset.experts], list[Switch]()
    asked = list(switches)
    for switch in (each for each in asked if each.on):
        kept[switch.layer].add(switch.expert)
    for switch in (each for each in asked if not each.on):
        routed = sum(e < routed_in_layer(geometry, switch.layer) for e in kept[switch.layer])
        if switch.expert not in kept[switch.layer]:
            continue
        if routed > slots_in_layer(geometry, switch.layer):
            kept[switch.layer].remove(switch.expert)
        else:
            refused.append(switch)
    experts = tuple(tuple(sorted(layer)) for layer in kept)
    if experts == tuple(map(tuple, subset.experts)):
        return subset, refused
    return replace(subset, experts=experts, method=f"{subset.method}, switched by hand"), refused


def changed(switches: Switches, switch: Switch, is_usual: bool) -> Switches:
    """With one expert switched once more; is_usual: as the slider's subset has it."""
    others = tuple(each for each in switches if each.place != switch.place)
    return others if is_usual else (*others, switch)
