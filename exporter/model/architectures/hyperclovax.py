"""HyperCLOVA X SEED (NAVER 2025): Granite whose logits are multiplied, with norms of what attention and MLP add."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    layer_rms_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' HyperCLOVAXConfig's; ``attention_multiplier`` is the scale itself."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    scale = config.optional_number("attention_multiplier", above=0.0)
    multiplier = config.number("residual_multiplier", 1.0)
    post_norms = config.flag("use_post_norm", True)

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, scale=scale, qkv_bias=attention_bias, output_bias=attention_bias)

        def block(mixer: Mixer, tensor: str, post: str) -> Block:
            norm = layer_rms_norm(index, f"{mixer.kind}_norm", tensor, sizes, epsilon=epsilon)
            post_norm = layer_rms_norm(index, f"{mixer.kind}_post_norm", post, sizes, epsilon=epsilon)
            return Block(norm=norm, mixer=mixer, post_norm=post_norm if post_norms else None, multiplier=multiplier)

        mlp = gated_mlp(index, sizes, activation, bias=mlp_bias)
        return Layer(
            (
                block(attention, "input_layernorm", "post_norm1"),
                block(mlp, "post_attention_layernorm", "post_norm2"),
            )
        )

    return rms_decoder(
        config,
        "hyperclovax",
        sizes,
        layer,
        ropes={"default": rope},
        epsilon=epsilon,
        tied=False,
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        logits_multiplier=config.number("logits_scaling", 1.0),
    )


ARCHITECTURE = Architecture(model_type="hyperclovax", read=read, ignored_tensors=IGNORED_TENSORS)
