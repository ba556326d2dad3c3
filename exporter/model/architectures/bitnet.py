"""BitNet b1.58 (Ma et al. 2024): Llama with a norm before each output projection, trained for ternary weights."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    layer_rms_norm,
    pre_norm_layer,
    read_activation,
    read_sizes,
    rms_decoder,
    rms_norm,
    separate_attention,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' BitNetConfig's."""
    sizes = read_sizes(
        config, vocab=128_256, hidden=2560, intermediate=6912, layers=30, heads=20, kv_heads=5, context=2048
    )
    if sizes.heads * sizes.head_dim != sizes.hidden:
        raise config.refuse("head_dim", f"BitNet norms what {sizes.heads} heads give as hidden_size = {sizes.hidden}")
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=500_000.0)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "relu2")
    bias = config.flag("attention_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias)
        name, tensors, width = f"layers.{index}", f"model.layers.{index}", sizes.intermediate[index]
        inner = layer_rms_norm(index, "attention.inner_norm", "self_attn.attn_sub_norm", sizes, epsilon=epsilon)
        wide = rms_norm(f"{name}.mlp.inner_norm", f"{tensors}.mlp.ffn_sub_norm.weight", width, epsilon)
        mlp = gated_mlp(index, sizes, activation)
        blocks = replace(attention, inner_norm=inner), replace(mlp, inner_norm=wide)
        return pre_norm_layer(index, sizes, epsilon, *blocks)

    return rms_decoder(config, "bitnet", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(model_type="bitnet", read=read, ignored_tensors=IGNORED_TENSORS)
