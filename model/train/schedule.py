"""The learning rate of every step."""

import math

from model.train.presets import Preset


def learning_rate(preset: Preset, step: int) -> float:
    """Linear warm-up to the peak, then the fall to `final_lr_share` of it.

    A cosine or a line over all other steps; "wsd" stays at the peak and falls, in a line, over the
    last `decay_share` of the run.
    """
    if step < preset.warmup_steps:
        return preset.learning_rate * (step + 1) / preset.warmup_steps
    first = preset.warmup_steps
    if preset.schedule == "wsd":
        first = max(first, preset.steps - round(preset.decay_share * preset.steps))
    progress = min(max(0, step - first) / max(1, preset.steps - first), 1.0)
    cosine = preset.schedule == "cosine"
    left = 0.5 * (1 + math.cos(math.pi * progress)) if cosine else 1 - progress
    share = preset.final_lr_share
    return preset.learning_rate * (share + (1 - share) * left)
