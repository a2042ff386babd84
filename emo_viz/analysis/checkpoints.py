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
    from model.run.inference import Encoded
    from model.run.live import Live


@dataclass(frozen=True)
class Checkpoint:
    """A run's checkpoint: its folder, the digest of its weights, its geometry and tokenizer.

    config: an EmoConfig, or what stands for one. opening: the token that is put before every text.
    longest: tokens that it takes, where it says so.
    """

    run: str
    folder: Path
    sha256: str
    config: "EmoConfig"
    tokenizer: "PreTrainedTokenizerBase"
    opening: int
    longest: int | None

    @classmethod
    def of(cls, run: str, folder: Path, live: "Live") -> "Checkpoint":
        """That of a loaded model. Raises ValueError for one without routers."""
        if live.is_emo:
            check_routers(live.geometry, folder)
        digest = weights_digest(folder)
        return cls(run, folder, digest, live.geometry, live.tokenizer, live.opening, live.longest)

    def encode(self, text: str, most: int) -> "Encoded":
        """A text as at most so many tokens, or as many as the model takes."""
        from model.run.inference import encode_after

        most = most if self.longest is None else min(most, self.longest)
        return encode_after(self.opening, self.tokenizer, text, most)

    @property
    def weights(self) -> Weights:
        """What a derived file keeps of it."""
        return Weights(self.folder.resolve().name, self.sha256)


def open_runs(folders: Sequence[Path], ids: Sequence[str] = ()) -> tuple[Checkpoint, ...]:
    """The checkpoints in the given order, each as a run of its own, called as its folder or by ids.

    Raises ValueError for a model without routers, and for a folder that is named twice.
    """
    from model.run.live import open_live

    return tuple(
        Checkpoint.of(run, folder, open_live(folder))
        for run, folder in zip(list(ids) or run_ids(folders), folders, strict=True)
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
