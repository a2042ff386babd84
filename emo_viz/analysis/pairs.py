"""Which models can be analysed, and which two can be set side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emo_viz.analysis.origins import Weights
from emo_viz.analysis.widths import difference, experts_by_layer
from model.files import weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.emo.config import EmoConfig

ROLES = ("emo", "standard")


@dataclass(frozen=True)
class Checkpoint:
    """A model folder, its role in the pair ("emo" or "standard") and the digest of its weights."""

    folder: Path
    objective: str
    sha256: str

    @property
    def weights(self) -> Weights:
        """What a derived file keeps of it."""
        return Weights(self.folder.resolve().name, self.sha256)


@dataclass(frozen=True)
class Pair:
    """An EMO and a standard model of one geometry and one tokenizer."""

    checkpoints: tuple[Checkpoint, Checkpoint]
    config: "EmoConfig"
    tokenizer: "PreTrainedTokenizerBase"

    @property
    def models(self) -> dict[str, Weights]:
        """By role, what a derived file keeps of the two."""
        return {each.objective: each.weights for each in self.checkpoints}


def check_routers(config: "EmoConfig", folder: Path) -> None:
    """Raises ValueError for a model without routers, or with a layer without one."""
    if config.objective == "dense":
        raise ValueError(
            f"{folder} is a dense model and has no routers; name an EMO or standard MoE."
        )
    experts = experts_by_layer(config)
    if 0 in experts:
        raise ValueError(
            f"{folder} has no experts in layer {experts.index(0)}; only models with a router in "
            "every layer can be analysed."
        )


def open_pair(folders: Sequence[Path]) -> Pair:
    """The two checkpoints in the given order, with the geometry and tokenizer that they share.

    Raises ValueError unless one is an EMO and one a standard model that can be compared.
    """
    from model.run.loading import load_model, load_tokenizer

    configs = [load_model(folder).config for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        check_routers(config, folder)
    roles = find_roles([config.objective for config in configs])
    _check_geometry(*configs)
    tokenizers = [load_tokenizer(folder) for folder in folders]
    if tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        raise ValueError("The two models have different tokenizers; their losses do not compare.")
    first, second = (
        Checkpoint(folder, role, weights_digest(folder))
        for folder, role in zip(folders, roles, strict=True)
    )
    return Pair((first, second), configs[0], tokenizers[0])


def find_roles(objectives: Sequence[str]) -> tuple[str, ...]:
    """The role of each of two models. A released config does not say its objective: such a model
    takes the role that the other leaves it, or that of its place.

    Raises ValueError if both are of one objective.
    """
    said = [objective if objective in ROLES else None for objective in objectives]
    roles = next((each for each in (ROLES, ROLES[::-1]) if _agree(said, each)), None)
    if roles is None:
        raise ValueError(
            f"Both checkpoints are of the {objectives[0]} objective; name one EMO and one standard "
            "checkpoint."
        )
    return roles


def _agree(said: Sequence[str | None], roles: Sequence[str]) -> bool:
    return all(word in (None, role) for word, role in zip(said, roles, strict=True))


def _check_geometry(one: "EmoConfig", other: "EmoConfig") -> None:
    """Raises ValueError unless losses, routing and subsets of the two mean the same."""
    fields = {
        "num_experts_per_tok": "number of experts a token",
        "num_shared_experts": "number of shared experts",
        "num_hidden_layers": "number of layers",
    }
    if one.num_experts_per_layer is other.num_experts_per_layer is None:
        fields = {"num_experts": "number of experts"} | fields
    for field, words in fields.items():
        if getattr(one, field) != getattr(other, field):
            raise ValueError(
                f"The two models differ in their {words} ({getattr(one, field)} and "
                f"{getattr(other, field)}); name a matched pair."
            )
    if found := difference(experts_by_layer(one), experts_by_layer(other)):
        raise ValueError(
            f"The two models differ in their number of experts in layer {found.layer} "
            f"({found.one} and {found.other}); name a matched pair."
        )
