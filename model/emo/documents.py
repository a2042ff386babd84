"""What a training forward knows of the documents in its rows, and what its routers report.

Shapes: B rows, T tokens, L layers, D documents a row (at most), R routed experts.
"""

import torch
from torch import Tensor, nn

from model.emo.config import UNKNOWN, EmoConfig
from model.emo.routing import document_segments, real_tokens, segments_from_positions


class DocumentRouting:
    """What the routers of one training forward need to know of its documents, and what they report.

    `pool_sizes_LBD` is None for a model without pools, `real_BT` (false for padding) for rows
    without padding. Each layer appends one entry to every list, once, also if it is run again for
    the backward pass. Not a dataclass: FSDP2 hands a sharded layer a copy of any that holds tensors
    with gradients, and the layer's report would be lost with the copy.

    `totals` holds by layer the slots of each routed expert and, last, the tokens that balance is
    demanded of: [R + 1]. A layer fills in its own; given beforehand, they are those of a whole step
    of which these rows are a part.
    """

    def __init__(
        self, segments_BT: Tensor, pool_sizes_LBD: Tensor | None, real_BT: Tensor | None = None
    ) -> None:
        self.segments_BT, self.pool_sizes_LBD, self.real_BT = segments_BT, pool_sizes_LBD, real_BT
        self.pool_choice: str | None = None  # in place of the config's
        self.balancing_losses: list[Tensor] = []
        self.z_losses: list[Tensor] = []
        self.counts_R: list[Tensor] = []
        self.entropies: list[Tensor] = []
        self.extra_losses: list[Tensor] = []  # weighted; of the objectives that have any
        self.totals: dict[int, Tensor] = {}
        self.reported: set[int] = set()

    def visible(self, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether a token may see another (earlier) one: of its own document, and real or itself.

        A mask function of transformers. Padding sees itself, for a row of nothing is not a number.
        """
        same = self.segments_BT[row, query] == self.segments_BT[row, key]
        return same if self.real_BT is None else same & (self.real_BT[row, key] | (query == key))

    def check_gradients(self, layers: nn.ModuleList) -> None:
        """Raises ValueError if the routers should learn and their losses have no gradient."""
        learning = torch.is_grad_enabled() and any(p.requires_grad for p in layers.parameters())
        if learning and self.z_losses and not self.z_losses[-1].requires_grad:
            raise ValueError(
                "Checkpointing with use_reentrant=True loses the gradient of the router losses; "
                "use activation_checkpointing_enable() with use_reentrant=False."
            )


def find(
    config: EmoConfig,
    tokens: Tensor,
    pool_sizes_LBD: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> DocumentRouting:
    """The documents of rows of token ids [B, T], with pool sizes for the emo objective.

    Sizes are drawn unless given. Documents are told apart by end-of-text tokens or, where
    `position_ids` are given, by positions that do not go on; embeddings [B, T, H] in place of ids
    are one document a row. Padding (0 in a mask [B, T]) is of none. Raises ValueError for a config
    that does not say its objective or its end-of-text token, and for sizes or a mask that do not
    fit.
    """
    if config.objective == UNKNOWN:
        raise ValueError(
            "This checkpoint does not say how it was trained: set model.config.objective to 'emo', "
            "'standard' or 'dense' before training it further, or call model.eval()."
        )
    rows, real_BT = tokens.shape[:2], real_tokens(attention_mask)
    if real_BT is not None and real_BT.shape != rows:
        raise ValueError(
            f"attention_mask {tuple(real_BT.shape)} does not fit rows of {tuple(rows)} tokens."
        )
    segments_BT = _segments(config, tokens, position_ids, real_BT)
    if config.objective != "emo":
        return DocumentRouting(segments_BT, None, real_BT)
    if pool_sizes_LBD is None:
        pool_sizes_LBD = config.pool_sizes.draw((config.num_hidden_layers, *rows))
    elif not torch.compiler.is_compiling():  # a compiled graph cannot ask what a tensor holds
        _check_pool_sizes(config, pool_sizes_LBD, segments_BT)
    return DocumentRouting(segments_BT, pool_sizes_LBD.to(tokens.device), real_BT)


def _segments(
    config: EmoConfig, tokens: Tensor, position_ids: Tensor | None, real_BT: Tensor | None
) -> Tensor:
    B, T, *hidden = tokens.shape
    if position_ids is not None:
        return segments_from_positions(position_ids.expand(B, T), real_BT)
    if hidden:
        return torch.zeros(B, T, dtype=torch.long, device=tokens.device)
    if config.eos_token_id is None:
        raise ValueError(
            "Training tells documents apart by the end-of-text token: set "
            "model.config.eos_token_id, or give position_ids that restart."
        )
    return document_segments(tokens, config.eos_token_id, real_BT=real_BT)


def _check_pool_sizes(config: EmoConfig, sizes_LBD: Tensor, segments_BT: Tensor) -> None:
    L, B, D = config.num_hidden_layers, len(segments_BT), int(segments_BT.max()) + 1
    if sizes_LBD.shape[:2] != (L, B) or sizes_LBD.shape[2:] < (D,):
        raise ValueError(
            f"Pool sizes {tuple(sizes_LBD.shape)} do not fit {L} layers, {B} rows and {D} "
            "documents a row."
        )
    if int(sizes_LBD.min()) < config.num_routed_per_tok:
        raise ValueError(
            f"A pool of {int(sizes_LBD.min())} experts is smaller than the "
            f"{config.num_routed_per_tok} routed experts that every token needs."
        )
