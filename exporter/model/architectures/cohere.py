"""Command R (Cohere 2024): attention and MLP side by side behind one layer norm without bias, neighbours rotated."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    assembled,
    gated_mlp,
    layer_norm,
    read_activation,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.parts.primitives import Norm, Weight
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part


def read(config: Config) -> Decoder:
    """Defaults are transformers' CohereConfig's. ``use_qk_norm`` norms heads, a gain for each (Command R+)."""
    sizes = read_sizes(
        config, vocab=256_000, hidden=8192, intermediate=22528, layers=40, heads=64, kv_heads=None, context=8192
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=500_000.0, interleaved=True)
    epsilon = config.number("layer_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias, normed = config.flag("attention_bias", False), config.flag("use_qk_norm", False)

    def layer(index: int) -> Layer:
        norms = _query_and_key_norm(index, sizes, epsilon) if normed else None
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, norms=norms)
        norm = layer_norm(
            f"layers.{index}.norm", f"model.layers.{index}.input_layernorm", sizes.hidden, epsilon, bias=False
        )
        mlp = gated_mlp(index, sizes, activation)
        return Layer((Block(norm=norm, mixer=attention), Block(norm=norm, mixer=mlp)), parallel=True)

    return assembled(
        config,
        "cohere",
        sizes,
        layer,
        final_norm=layer_norm("final_norm", "model.norm", sizes.hidden, epsilon, bias=False),
        ropes={"default": rope},
        tied=True,
        logits_multiplier=config.number("logit_scale", 0.0625),
    )


def _query_and_key_norm(index: int, sizes: Sizes, epsilon: float) -> tuple[Norm, Norm]:
    """``q_norm`` and ``k_norm``, (heads, head_dim) each."""
    name, tensors = f"layers.{index}.attention", f"model.layers.{index}.self_attn"

    def norm(role: str, tensor: str, heads: int) -> Norm:
        parts = (Part(f"{tensors}.{tensor}.weight", 0, heads),)
        return Norm(Weight(f"{name}.{role}", "norm", (heads, sizes.head_dim), parts), epsilon, "layer")

    return norm("query_norm", "q_norm", sizes.heads), norm("key_norm", "k_norm", sizes.kv_heads)


ARCHITECTURE = Architecture(model_type="cohere", read=read, ignored_tensors=IGNORED_TENSORS)
