"""EmoForCausalLM: a transformers model whose experts are routed inside document pools in training.

Pre-norm blocks with transformers' Llama attention (no QK-norm) and fused experts; reads and writes
the released checkpoint names. In training the documents of a packed row are told apart by
end-of-text tokens: attention never crosses them, and with the "emo" objective all tokens of a
document choose their experts from one pool. Outside training there are no pools (the released
models have none either); experts are removed with `model.subset`.

Shapes: B rows, T tokens, N = B*T, L layers, D documents a row, E experts, R routed, K experts a
token, H hidden size.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter
from transformers.integrations.moe import use_experts_implementation
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from model.attention import EmoAttention
from model.config import EmoConfig
from model.experts import reference_experts
from model.loss import linear_cross_entropy
from model.norm import EmoRMSNorm
from model.routing import (
    Routed,
    document_pools,
    document_segments,
    expert_counts,
    load_balancing_loss,
    positions_in_segment,
    route,
    router_entropy,
    router_z_loss,
)
from model.subset import active_mask


class DocumentRouting:
    """What the routers of one training forward need to know of its documents, and what they report.

    `pool_sizes_LBD` is None for a model without pools. Each layer appends one entry to every list.
    Not a dataclass: FSDP2 hands a sharded layer a copy of any that holds tensors with gradients,
    and the layer's report would be lost with the copy.
    """

    def __init__(self, segments_BT: Tensor, pool_sizes_LBD: Tensor | None) -> None:
        self.segments_BT, self.pool_sizes_LBD = segments_BT, pool_sizes_LBD
        self.balancing_losses: list[Tensor] = []
        self.z_losses: list[Tensor] = []
        self.counts_R: list[Tensor] = []
        self.entropies: list[Tensor] = []


class EmoRouter(nn.Module):
    """Router of one layer; the shared experts' rows of `weight` are never used (paper A.1)."""

    def __init__(self, config: EmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.num_experts = config.experts_in_layer(layer_idx)
        self.num_shared = config.num_shared_experts
        self.top_k = min(config.num_experts_per_tok, self.num_experts)
        self.global_balancing = config.load_balancing_scope == "global"
        self.weight = nn.Parameter(torch.empty(self.num_experts, config.hidden_size))

    def forward(
        self, hidden_NH: Tensor, documents: DocumentRouting | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Router logits [N, E], gate weights [N, K] and expert ids [N, K]."""
        with torch.autocast(hidden_NH.device.type, enabled=False):
            logits_NE = F.linear(hidden_NH.to(self.weight.dtype), self.weight)
        allowed = self._allowed(logits_NE, documents)
        routed = route(logits_NE, self.num_shared, self.top_k, allowed)
        if documents is not None:
            self._report(documents, logits_NE, routed)
        return logits_NE, routed.gate_weights_NK.to(hidden_NH.dtype), routed.expert_ids_NK

    def _allowed(self, logits_NE: Tensor, documents: DocumentRouting | None) -> Tensor | None:
        """The document pools, the active expert subset, both, or None."""
        subset_R = active_mask(self)
        if documents is None or documents.pool_sizes_LBD is None:
            return subset_R
        B, T = documents.segments_BT.shape
        sizes_BD = documents.pool_sizes_LBD[self.layer_idx]
        with torch.no_grad():
            pools_BTR = self._pools(logits_NE.view(B, T, -1), documents.segments_BT, sizes_BD)
        pools_NR = pools_BTR.reshape(B * T, -1)
        return pools_NR if subset_R is None else pools_NR & subset_R

    def _pools(self, logits_BTE: Tensor, segments_BT: Tensor, sizes_BD: Tensor) -> Tensor:
        """Each token's document pool; one kernel on CUDA."""
        num_routed = self.num_experts - self.num_shared
        if logits_BTE.is_cuda:
            from model.kernels import ops

            return ops.document_pools(logits_BTE, segments_BT, sizes_BD, num_routed)
        scores_BTR = logits_BTE[..., :num_routed].float().softmax(-1)
        return document_pools(scores_BTR, segments_BT, sizes_BD)

    def _report(self, documents: DocumentRouting, logits_NE: Tensor, routed: Routed) -> None:
        num_routed = self.num_experts - self.num_shared
        slots = self.top_k - self.num_shared
        counts_R = expert_counts(routed.expert_ids_NK[:, :slots], num_routed)
        totals = torch.cat([counts_R, counts_R.new_tensor([routed.scores_NR.shape[0]])])
        if self.global_balancing and dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
        documents.balancing_losses.append(
            load_balancing_loss(routed.scores_NR, totals[:-1], slots, totals[-1])
        )
        documents.z_losses.append(router_z_loss(routed.lse_N))
        documents.counts_R.append(totals[:-1])
        with torch.no_grad():
            entropy_N = router_entropy(logits_NE[:, :num_routed], routed)
        documents.entropies.append(entropy_N.mean())


@use_experts_implementation
class EmoExperts(nn.Module):
    """All SwiGLU experts of a layer, fused: gate over up [E, 2I, H] and down [E, H, I]."""

    def __init__(self, config: EmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.num_experts = config.experts_in_layer(layer_idx)
        width, hidden = config.intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden, width))
        self.act_fn = nn.SiLU()

    def forward(self, hidden_NH: Tensor, expert_ids_NK: Tensor, gate_weights_NK: Tensor) -> Tensor:
        return reference_experts(
            hidden_NH, self.gate_up_proj, self.down_proj, gate_weights_NK, expert_ids_NK
        )


class EmoSparseMlp(nn.Module):
    """Router and experts of one layer."""

    def __init__(self, config: EmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.gate = EmoRouter(config, layer_idx)
        self.experts = EmoExperts(config, layer_idx)

    def forward(self, hidden_BTH: Tensor, documents: DocumentRouting | None = None) -> Tensor:
        hidden_NH = hidden_BTH.reshape(-1, hidden_BTH.shape[-1])
        _, gate_weights_NK, expert_ids_NK = self.gate(hidden_NH, documents)
        return self.experts(hidden_NH, expert_ids_NK, gate_weights_NK).view_as(hidden_BTH)


class EmoDenseMlp(nn.Module):
    """SwiGLU of the dense twin, as wide as the experts that fire for one token unless told."""

    def __init__(self, config: EmoConfig) -> None:
        super().__init__()
        width = config.dense_intermediate_size
        width = width or config.intermediate_size * config.num_experts_per_tok
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, hidden_BTH: Tensor, documents: DocumentRouting | None = None) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden_BTH)) * self.up_proj(hidden_BTH))


class EmoDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and pre-norm experts, each with a residual."""

    def __init__(self, config: EmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = EmoAttention(config, layer_idx)
        dense = config.objective == "dense"
        self.mlp = EmoDenseMlp(config) if dense else EmoSparseMlp(config, layer_idx)
        self.pre_attention_layernorm = EmoRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_feedforward_layernorm = EmoRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, hidden_BTH: Tensor, documents: DocumentRouting | None = None, **kwargs: Any
    ) -> Tensor:
        segments_BT = None if documents is None else documents.segments_BT
        attended, _ = self.self_attn(
            self.pre_attention_layernorm(hidden_BTH), segments_BT=segments_BT, **kwargs
        )
        hidden_BTH = hidden_BTH + attended
        return hidden_BTH + self.mlp(self.pre_feedforward_layernorm(hidden_BTH), documents)


class EmoPreTrainedModel(PreTrainedModel):
    """What transformers needs to know to load, save, record and place the model."""

    config: EmoConfig
    config_class = EmoConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EmoDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "router_logits": OutputRecorder(EmoRouter, index=0),
        "gate_weights": OutputRecorder(EmoRouter, index=1),
        "expert_ids": OutputRecorder(EmoRouter, index=2),
        "hidden_states": EmoDecoderLayer,
        "attentions": EmoAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Truncated normal cut at three deviations for every matrix, as the released models."""
        std = self.config.initializer_range
        if isinstance(module, EmoExperts):
            for weight in (module.gate_up_proj, module.down_proj):
                init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)
        elif isinstance(module, EmoRouter | nn.Linear | nn.Embedding):
            init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
        else:
            super()._init_weights(module)

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        if requested_experts in (None, "emo_moe"):
            return "emo_moe"
        return super().get_correct_experts_implementation(requested_experts)


class EmoModel(EmoPreTrainedModel):
    """Embeddings, decoder layers and final norm."""

    def __init__(self, config: EmoConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [EmoDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)]
        )
        self.norm = EmoRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        documents: DocumentRouting | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if use_cache and past_key_values is None and documents is None:
            past_key_values = DynamicCache(config=self.config)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if documents is not None and position_ids is None:
            # Positions that restart (without a cache) are transformers' own sign for packed
            # documents: its masks then keep attention inside each document.
            position_ids = positions_in_segment(documents.segments_BT)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            index = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = (index + seen).unsqueeze(0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden_BTH = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_BTH, position_ids)
        for layer in self.layers:
            hidden_BTH = layer(
                hidden_BTH,
                documents,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden_BTH), past_key_values=past_key_values
        )


class EmoHead(nn.Linear):
    """Hidden states to logits; by oneDNN where that is up to a tenth faster than torch's linear."""

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        """[.., V], equal to rounding either way; float32 on a CPU without gradients is oneDNN's."""
        fits = hidden_BTH.is_cpu and hidden_BTH.dtype == self.weight.dtype == torch.float32
        autocast = torch.is_autocast_enabled("cpu")
        if (
            torch.is_grad_enabled()
            or autocast
            or not fits
            or not torch.backends.mkldnn.is_available()
        ):
            return super().forward(hidden_BTH)
        operands = (hidden_BTH, self.weight, self.bias)
        logits: Tensor = torch.ops.mkldnn._linear_pointwise(*operands, "none", [], "")
        return logits


class EmoForCausalLM(EmoPreTrainedModel, GenerationMixin):
    """The language model: untied head on top of EmoModel."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: EmoConfig) -> None:
        super().__init__(config)
        self.model = EmoModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = EmoHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def routers(self) -> list[EmoRouter]:
        """The router of every layer, first layer first; none for a dense model."""
        return [module for module in self.modules() if isinstance(module, EmoRouter)]

    def document_routing(
        self, input_ids_BT: Tensor, pool_sizes_LBD: Tensor | None = None
    ) -> DocumentRouting:
        """Segments of packed rows and, for the emo objective, pool sizes (drawn unless given)."""
        config = self.config
        assert isinstance(config.eos_token_id, int)
        segments_BT = document_segments(input_ids_BT, config.eos_token_id)
        if config.objective != "emo":
            return DocumentRouting(segments_BT, None)
        if pool_sizes_LBD is None:
            shape = (config.num_hidden_layers, *input_ids_BT.shape)
            pool_sizes_LBD = config.pool_sizes.draw(shape)
        return DocumentRouting(segments_BT, pool_sizes_LBD.to(input_ids_BT.device))

    def router_losses(self, documents: DocumentRouting) -> tuple[Tensor, Tensor]:
        """Balancing loss and z-loss, each the mean over layers."""
        return (
            torch.stack(documents.balancing_losses).mean(),
            torch.stack(documents.z_losses).mean(),
        )

    def next_token_loss(
        self, input_ids_BT: Tensor, labels_BT: Tensor, documents: DocumentRouting, z_coef: float
    ) -> Tensor:
        """Training loss of the next tokens, in nats a token, without ever holding all logits.

        `documents` collects the routers' reports; `z_coef` weighs the squared log-sum-exp of the
        logits.
        """
        hidden = self.model(input_ids=input_ids_BT, documents=documents, use_cache=False)
        hidden_NH = hidden.last_hidden_state.flatten(0, 1)
        return linear_cross_entropy(hidden_NH, self.lm_head.weight, labels_BT.flatten(), z_coef)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        documents: DocumentRouting | None = None,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Logits, and with `labels` the loss; in training the router losses are part of it.

        `documents` switches document pools and document attention on; training forwards make it
        from `input_ids` when it is not given.
        """
        if documents is None and self.training and input_ids is not None:
            documents = self.document_routing(input_ids)
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        outputs: MoeModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=output_router_logits,
            documents=documents,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = aux_loss = None
        if documents is not None and documents.z_losses:
            balancing, z_loss = self.router_losses(documents)
            config = self.config
            aux_loss = config.router_aux_loss_coef * balancing + config.router_z_loss_coef * z_loss
        if labels is not None:
            loss = self.loss_function(logits, labels, self.vocab_size, **kwargs)
            loss = loss if aux_loss is None else loss + aux_loss
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
        )


def _register() -> None:
    """Make AutoConfig, AutoModel and the checkpoint loader know model_type "emo"."""
    AutoConfig.register("emo", EmoConfig, exist_ok=True)
    AutoModel.register(EmoConfig, EmoModel, exist_ok=True)
    AutoModelForCausalLM.register(EmoConfig, EmoForCausalLM, exist_ok=True)
    per_expert = "mlp.experts.*."
    conversions = [
        WeightConverter(
            source_patterns=[per_expert + "gate_proj.weight", per_expert + "up_proj.weight"],
            target_patterns="mlp.experts.gate_up_proj",
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(
            source_patterns=per_expert + "down_proj.weight",
            target_patterns="mlp.experts.down_proj",
            operations=[MergeModulelist(dim=0)],
        ),
    ]
    register_checkpoint_conversion_mapping("emo", conversions, overwrite=True)


_register()
