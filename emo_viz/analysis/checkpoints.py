"""Opening the checkpoints of runs for a measurement, and which models can be measured at all."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emo_viz.analysis.origins import Weights
from emo_viz.analysis.runs import Comparison, Facts, Run, compare, label_of, run_ids
from emo_viz.analysis.widths import experts_by_layer, routed_by_layer
from model.files import weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.emo.config import EmoConfig


@dataclass(frozen=True)
class Checkpoint:
    """A run's checkpoint: its folder, the digest of its weights, its geometry and tokenizer."""

    run: str
    folder: Path
    sha256: str
    config: "EmoConfig"
    tokenizer: "PreTrainedTokenizerBase"

    @property
    def weights(self) -> Weights:
        """What a derived file keeps of it."""
        return Weights(self.folder.resolve().name, self.sha256)


def open_runs(folders: Sequence[Path], ids: Sequence[str] = ()) -> tuple[Checkpoint, ...]:
    """The checkpoints in the given order, each as a run of its own, called as its folder or by ids.

    Raises ValueError for a model without routers, and for a folder that is named twice.
    """
    from model.run.loading import load_model, load_tokenizer

    runs = list(ids) or run_ids(folders)
    configs = [load_model(folder).config for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        check_routers(config, folder)
    return tuple(
        Checkpoint(run, folder, weights_digest(folder), config, load_tokenizer(folder))
        for run, folder, config in zip(runs, folders, configs, strict=True)
    )


def side_by_side(checkpoints: Sequence[Checkpoint]) -> Comparison:
    """One or two opened runs as a comparison, which knows what of them compares."""
    return compare([_run(each) for each in checkpoints])


def _run(one: Checkpoint) -> Run:
    facts = Facts(routed_by_layer(one.config), vocabulary_digest(one.tokenizer))
    return Run(one.run, label_of(one.run), checkpoint=one.folder, facts=facts)


def vocabulary_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of all tokens with their ids."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def check_routers(config: "EmoConfig", folder: Path) -> None:
    """Raises ValueError for a model without routers, or with a layer without one."""
    if config.objective == "dense":
        raise ValueError(
            f"{folder} is a dense model and has no routers; name a mixture-of-experts model."
        )
    experts = experts_by_layer(config)
    if 0 in experts:
        raise ValueError(
            f"{folder} has no experts in layer {experts.index(0)}; only models with a router in "
            "every layer can be analysed."
        )
