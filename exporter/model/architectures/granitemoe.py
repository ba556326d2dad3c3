"""Granite 3 with experts (IBM 2024): Granite's multipliers, experts stored in stacks."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    matrix,
    pre_norm_layer,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import fused_experts, read_counts, read_silu, router
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing, Shared
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GraniteMoeConfig's."""
    return decoder(config, "granitemoe")


def decoder(config: Config, model_type: str) -> Decoder:
    """With shared experts in the form of GraniteMoeShared, where the config says how wide they are."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    read_silu(config, "hidden_act")
    bias, scale = config.flag("attention_bias", False), config.number("attention_multiplier", 1.0, above=0.0)
    residual_multiplier = config.number("residual_multiplier", 1.0)
    count, chosen = read_counts(config, "num_local_experts", 8, 2)
    shared = config.integer("shared_intermediate_size", 0, minimum=0) if model_type == "granitemoeshared" else 0

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, scale=scale, qkv_bias=bias, output_bias=bias)
        experts = granite_experts(
            index, sizes, count=count, chosen=chosen, width=sizes.intermediate[index], shared=shared
        )
        return pre_norm_layer(index, sizes, epsilon, attention, experts, residual_multiplier=residual_multiplier)

    return rms_decoder(
        config,
        model_type,
        sizes,
        layer,
        ropes={"default": rope},
        epsilon=epsilon,
        tied=False,
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        logits_multiplier=1.0 / config.number("logits_scaling", 1.0, above=0.0),
    )


def granite_experts(index: int, sizes: Sizes, *, count: int, chosen: int, width: int, shared: int) -> MixtureOfExperts:
    """Granite's block of experts, and its ``shared_mlp`` where that is wider than 0."""
    name, tensors = f"layers.{index}.shared", f"model.layers.{index}.block_sparse_moe"
    both, down = (f"model.layers.{index}.shared_mlp.{end}_linear.weight" for end in ("input", "output"))
    return MixtureOfExperts(
        router=router(index, f"{tensors}.router.layer", count, sizes.hidden),
        experts=fused_experts(
            index,
            sizes,
            f"{tensors}.input_linear.weight",
            f"{tensors}.output_linear.weight",
            count=count,
            width=width,
        ),
        shared=None
        if not shared
        else Shared(
            gate=Linear(matrix(f"{name}.gate", "linear", both, shared, sizes.hidden)),
            up=Linear(matrix(f"{name}.up", "linear", both, shared, sizes.hidden, start=shared)),
            down=Linear(matrix(f"{name}.down", "linear", down, sizes.hidden, shared)),
        ),
        routing=Routing(count=chosen),
    )


ARCHITECTURE = Architecture(
    model_type="granitemoe",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    experts_keys=("num_local_experts",),
)
