"""GLM-4 of 2024 (GLM Team 2024): half of each head rotated, neighbours paired; biases on q, k and v; a fused gate."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    fused_mlp,
    layer_rms_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.parts.primitives import Norm
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GlmConfig's."""
    return read_as(config, "glm", post_norms=False)


def read_as(config: Config, model_type: str, *, post_norms: bool) -> Decoder:
    """GLM's config, for a family of that form: with ``post_norms`` of what attention and MLP add, or without."""
    sizes = read_sizes(
        config,
        vocab=151_552,
        hidden=4096,
        intermediate=13696,
        layers=40,
        heads=32,
        kv_heads=2,
        head_dim=128,
        context=131_072,
    )
    rope = read_rope(
        config, head_dim=sizes.head_dim, context_length=sizes.context, partial=True, share=0.5, interleaved=True
    )
    epsilon = config.number("rms_norm_eps", 1.5625e-7, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.flag("attention_bias", True)

    def layer(index: int) -> Layer:
        def norm(role: str, tensor: str) -> Norm:
            return layer_rms_norm(index, role, tensor, sizes, epsilon=epsilon)

        def post_norm(role: str, tensor: str) -> Norm | None:
            return norm(role, tensor) if post_norms else None

        return Layer(
            (
                Block(
                    norm=norm("attention_norm", "input_layernorm"),
                    mixer=separate_attention(index, sizes, qkv_bias=bias),
                    post_norm=post_norm("attention_post_norm", "post_self_attn_layernorm"),
                ),
                Block(
                    norm=norm("mlp_norm", "post_attention_layernorm"),
                    mixer=fused_mlp(index, sizes, activation),
                    post_norm=post_norm("mlp_post_norm", "post_mlp_layernorm"),
                ),
            )
        )

    return rms_decoder(config, model_type, sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(model_type="glm", read=read, ignored_tensors=IGNORED_TENSORS)
