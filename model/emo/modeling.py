"""EmoForCausalLM: a transformers model whose experts are routed inside document pools in training.

Pre-norm blocks with transformers' Llama attention (no QK-norm) and fused experts; reads and writes
the released checkpoint names. In training the documents of a packed row are told apart by
end-of-text tokens: attention never crosses them, and with the "emo" objective all tokens of a
document choose their experts from one pool. Outside training there are no pools (the released
models have none either), nor while text is generated; experts are removed with `model.run.subset`.
Padding is of no document: it counts in no pool and in no loss of the routers.

Shapes: B rows, T tokens, N = B*T, L layers, D documents a row, E experts, R routed, K experts a
token, H hidden size.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter
from transformers.integrations.moe import use_experts_implementation
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

import model.emo.experts  # noqa: F401  (registers "emo_moe", what EmoExperts runs on)
from model.emo.attention import EmoAttention
from model.emo.config import EmoConfig
from model.emo.documents import DocumentRouting, find
from model.emo.loss import linear_cross_entropy
from model.emo.norm import EmoRMSNorm
from model.emo.router import EmoRouter
from model.emo.routing import is_padding, positions_in_segment, real_tokens
from model.kernels.reference import reference_experts

Sight = tuple[Tensor, Any, Tensor | None]
"""Positions, the attention mask, and the documents if the mask keeps them apart and no more."""


@use_experts_implementation
class EmoExperts(nn.Module):
    """All gated experts of a layer, fused: gate over up [E, 2I, H] and down [E, H, I]."""

    save: Literal["xh", "x"] = "xh"
    """What the kernels of a GPU keep for the backward pass: `model.kernels.ops.moe`."""

    def __init__(self, config: EmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.num_experts = config.experts_in_layer(layer_idx)
        width, hidden = config.intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden, width))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_NH: Tensor, expert_ids_NK: Tensor, gate_weights_NK: Tensor) -> Tensor:
        weights = (self.gate_up_proj, self.down_proj, gate_weights_NK)
        return reference_experts(hidden_NH, *weights, expert_ids_NK, self.act_fn)


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
    """One MLP for all tokens, as wide as the experts that fire for one of them unless told."""

    def __init__(self, config: EmoConfig) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.dense_mlp_bias
        width = config.dense_intermediate_size
        width = width or config.intermediate_size * config.num_experts_per_tok
        self.gate_proj = nn.Linear(hidden, width, bias=bias)
        self.up_proj = nn.Linear(hidden, width, bias=bias)
        self.down_proj = nn.Linear(width, hidden, bias=bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_BTH: Tensor, documents: DocumentRouting | None = None) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_BTH)) * self.up_proj(hidden_BTH))


class EmoDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and pre-norm experts, each with a residual."""

    def __init__(self, config: EmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = EmoAttention(config, layer_idx)
        dense = config.is_dense(layer_idx)
        self.mlp = EmoDenseMlp(config) if dense else EmoSparseMlp(config, layer_idx)
        self.pre_attention_layernorm = EmoRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_feedforward_layernorm = EmoRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_BTH: Tensor,
        documents: DocumentRouting | None = None,
        segments_BT: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
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
    _keep_in_fp32_modules_strict = ["correction_bias"]
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
        """Final hidden states. `documents` makes this a training forward, without a cache."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if documents is not None:
            seen = (attention_mask, position_ids, past_key_values)
            position_ids, mask, segments_BT = self._see_documents(inputs_embeds, documents, *seen)
        else:
            if use_cache and past_key_values is None:
                past_key_values = DynamicCache(config=self.config)
            seen = (attention_mask, position_ids, past_key_values)
            position_ids, mask, segments_BT = self._see_all(inputs_embeds, *seen)
        hidden_BTH = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_BTH, position_ids)
        for layer in self.layers:
            hidden_BTH = layer(
                hidden_BTH,
                documents,
                segments_BT,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
        if documents is not None and self.gradient_checkpointing:
            documents.check_gradients(self.layers)
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden_BTH), past_key_values=past_key_values
        )

    def _see_all(
        self,
        embeds_BTH: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
    ) -> Sight:
        """Attention as in any transformers model."""
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            index = torch.arange(embeds_BTH.shape[1], device=embeds_BTH.device)
            position_ids = (index + seen).unsqueeze(0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=embeds_BTH,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
        )
        return position_ids, mask, None

    def _see_documents(
        self,
        embeds_BTH: Tensor,
        documents: DocumentRouting,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
    ) -> Sight:
        """Attention inside each document that sees no padding; a 4-D mask is taken as it is."""
        if cache is not None:
            raise ValueError("Documents are of whole rows: give no past_key_values with them.")
        if documents.real_BT is None:
            documents.real_BT = real_tokens(attention_mask)
        segments_BT, real_BT = documents.segments_BT, documents.real_BT
        places_BT = positions_in_segment(segments_BT, real_BT)
        inputs: dict[str, Any] = {
            "config": self.config,
            "inputs_embeds": embeds_BTH,
            "past_key_values": None,
        }
        if attention_mask is not None and not is_padding(attention_mask):
            return places_BT if position_ids is None else position_ids, attention_mask, None
        if real_BT is None:
            # Positions that restart (without a mask and a cache) are transformers' own sign for
            # packed documents: its masks then keep attention inside each document.
            mask = create_causal_mask(**inputs, attention_mask=None, position_ids=places_BT)
        elif "flash" in str(self.config._attn_implementation):
            raise ValueError(
                "Flash attention cannot keep documents apart in rows with padding; load the model "
                "with attn_implementation='sdpa'."
            )
        else:
            mask = create_causal_mask(
                **inputs, attention_mask=None, and_mask_function=documents.visible
            )
        places_BT = places_BT if position_ids is None else position_ids
        return places_BT, mask, segments_BT if real_BT is None else None


class EmoHead(nn.Linear):
    """Hidden states to logits; by oneDNN where that is up to a tenth faster than torch's linear."""

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        """[.., V], equal to rounding either way; float32 on a CPU without gradients is oneDNN's."""
        plain = (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
            or not (hidden_BTH.is_cpu and self.weight.is_cpu)
            or not hidden_BTH.dtype == self.weight.dtype == torch.float32
            or not torch.backends.mkldnn.is_available()
        )
        if plain:
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
        """The router of every layer that has one, first layer first; none for a dense model."""
        return [module for module in self.modules() if isinstance(module, EmoRouter)]

    def document_routing(
        self,
        input_ids_BT: Tensor,
        pool_sizes_LBD: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> DocumentRouting:
        """Documents of packed rows and, for the emo objective, their pools' sizes: see `find`."""
        return find(self.config, input_ids_BT, pool_sizes_LBD, attention_mask, position_ids)

    def router_losses(self, documents: DocumentRouting) -> tuple[Tensor, Tensor]:
        """Balancing loss and z-loss, each the mean over layers."""
        return (
            torch.stack(documents.balancing_losses).mean(),
            torch.stack(documents.z_losses).mean(),
        )

    def extra_loss(self, documents: DocumentRouting) -> Tensor | float:
        """The objective's own weighted losses (`model.emo.objectives`), mean over layers."""
        return torch.stack(documents.extra_losses).mean() if documents.extra_losses else 0.0

    def report_routing(self, input_ids_BT: Tensor, documents: DocumentRouting) -> None:
        """Run the layers alone, for what their routers report to `documents`."""
        self.model(input_ids=input_ids_BT, documents=documents, use_cache=False)

    def next_token_loss(
        self, input_ids_BT: Tensor, labels_BT: Tensor, documents: DocumentRouting, z_coef: float
    ) -> Tensor:
        """Training loss of the next tokens, in nats a token, without ever holding all logits.

        Tokens labelled -100 have none. `documents` collects the routers' reports; `z_coef` weighs
        the squared log-sum-exp of the logits.
        """
        hidden = self.model(input_ids=input_ids_BT, documents=documents, use_cache=False)
        hidden_NH = hidden.last_hidden_state.flatten(0, 1)
        return linear_cross_entropy(hidden_NH, self.lm_head.weight, labels_BT.flatten(), z_coef)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Without documents: a model in training writes what it writes outside."""
        return super().prepare_inputs_for_generation(*args, **kwargs) | {"documents": False}

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
        documents: DocumentRouting | Literal[False] | None = None,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Logits, and with `labels` the loss; in training the router losses are part of it.

        `documents` switches document pools and document attention on. Training forwards without a
        cache make it with `document_routing` from the other arguments when it is not given; False
        says that there are none.
        """
        tokens = inputs_embeds if input_ids is None else input_ids
        if documents is None and self.training and past_key_values is None and tokens is not None:
            documents = self.document_routing(tokens, None, attention_mask, position_ids)
        documents = documents or None
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
        logits = self.lm_head(_kept(outputs.last_hidden_state, logits_to_keep))
        loss = aux_loss = None
        if documents is not None and documents.z_losses:
            balancing, z_loss = self.router_losses(documents)
            config = self.config
            aux_loss = config.router_aux_loss_coef * balancing + config.router_z_loss_coef * z_loss
            aux_loss = aux_loss + self.extra_loss(documents)
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


def _kept(hidden_BTH: Tensor, which: int | Tensor) -> Tensor:
    """The positions that logits are asked for: the last few (0: all), or by index or mask."""
    if isinstance(which, int):
        return hidden_BTH[:, -which:] if which else hidden_BTH
    if which.dim() == 1:
        return hidden_BTH[:, which]
    if which.dtype == torch.bool:
        return hidden_BTH[which]
    return hidden_BTH.take_along_dim(which.unsqueeze(-1), dim=1)


def _register() -> None:
    """Make AutoModel and the checkpoint loader know model_type "emo"."""
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
