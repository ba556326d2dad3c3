"""Hunyuan, dense (Tencent 2025): Llama with norms of q and k behind the rotary embedding, which alpha may stretch."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    gated_mlp,
    pre_norm_layer,
    read_activation,
    read_sizes,
    rms_decoder,
    rms_norm,
    separate_attention,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.parts.primitives import Norm
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' HunYuanDenseV1Config's."""
    sizes = read_sizes(
        config, vocab=290_943, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, ntk_alpha=True)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.flag("attention_bias", False)

    def layer(index: int) -> Layer:
        norms = query_and_key_layernorm(index, sizes, epsilon)
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, norms=norms)
        mlp = gated_mlp(index, sizes, activation)
        return pre_norm_layer(index, sizes, epsilon, replace(attention, norm_after_rope=True), mlp)

    return rms_decoder(config, "hunyuan_v1_dense", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def query_and_key_layernorm(index: int, sizes: Sizes, epsilon: float) -> tuple[Norm, Norm]:
    """``self_attn.query_layernorm`` and ``key_layernorm``, over each head."""
    name, tensors = f"layers.{index}.attention", f"model.layers.{index}.self_attn"
    return (
        rms_norm(f"{name}.query_norm", f"{tensors}.query_layernorm.weight", sizes.head_dim, epsilon),
        rms_norm(f"{name}.key_norm", f"{tensors}.key_layernorm.weight", sizes.head_dim, epsilon),
    )


ARCHITECTURE = Architecture(model_type="hunyuan_v1_dense", read=read, ignored_tensors=IGNORED_TENSORS)
