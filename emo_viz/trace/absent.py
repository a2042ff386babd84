"""What a trace may lack, and in one line what would give it.

A part is absent if no document of the trace has it: a file that a server wrote holds expert ids and
little else. `Trace.has` tells, and whatever needs an absent part raises `Absent`.
"""

from typing import Literal, get_args

Part = Literal[
    "activation",
    "checkpoint",
    "clusters",
    "domain",
    "entropy",
    "gate_weights",
    "loss",
    "n_tokens",
    "num_experts",
    "text",
    "token_ids",
    "token_texts",
    "tokens",
    "top_k",
    "usage",
]
PARTS: tuple[Part, ...] = get_args(Part)

_RECORD = "record the model's checkpoint with --level tokens"
_COUNTED = "import its file again with --top-k"
_MEANING: dict[Part, tuple[str, str]] = {
    "activation": ("no share of tokens that chose each expert", _COUNTED),
    "checkpoint": ("no digest of the model's weights", "record the model's checkpoint"),
    "clusters": ("no clusters that another tool made", "import a folder that has them"),
    "domain": ("no domains", "record the model's checkpoint on documents with a domain each"),
    "entropy": ("no router entropies", _RECORD),
    "gate_weights": ("no gate weights", _RECORD),
    "loss": ("no losses", _RECORD),
    "n_tokens": ("no number of tokens", _COUNTED),
    "num_experts": ("no number of experts, only the ids seen", "import its file with --experts"),
    "text": ("no texts", "import its file again with --text, or record the model's checkpoint"),
    "token_ids": ("no token ids", _RECORD),
    "token_texts": ("no texts of tokens", _RECORD),
    "tokens": ("no tokens", "record it again with --level tokens"),
    "top_k": ("no number of experts a token", _COUNTED),
    "usage": ("no use of experts", "record the model's checkpoint"),
}


class Absent(ValueError):
    """A trace was asked for a part that its source did not have; the text is one sentence."""


def sentence(trace: str, *parts: Part) -> str:
    """That the trace of this name lacks some parts, and what would give them."""
    mends = dict.fromkeys(_MEANING[part][1] for part in parts)
    lacks = [", ".join(_MEANING[p][0] for p in parts if _MEANING[p][1] == mend) for mend in mends]
    return " ".join(
        f"The trace {trace} holds {what}; {mend}." for what, mend in zip(lacks, mends, strict=True)
    )
