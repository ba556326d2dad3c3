"""Apertus (Swiss AI 2025): xIELU without a gate, norms of q and k head by head."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    ACTIVATIONS,
    IGNORED_TENSORS,
    Sizes,
    layer_rms_norm,
    plain_mlp,
    query_and_key_norm,
    read_sizes,
    rms_decoder,
    separate_attention,
    xielu_mlp,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

ROPE: dict[str, object] = {
    "rope_type": "llama3",
    "rope_theta": 12_000_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(config: Config) -> Decoder:
    """Defaults are transformers' ApertusConfig's, and llama3's rope is one of them."""
    sizes = read_sizes(
        config, vocab=131_072, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=None, context=65536
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=12_000_000.0, default=ROPE)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = config.text("hidden_act", "xielu", {*ACTIVATIONS, "xielu"})
    bias = config.flag("attention_bias", False)

    def layer(index: int) -> Layer:
        norms = query_and_key_norm(index, sizes, epsilon)
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, norms=norms)
        blocks = ((attention, "attention_layernorm"), (_mlp(index, sizes, activation), "feedforward_layernorm"))
        return Layer(
            tuple(
                Block(norm=layer_rms_norm(index, f"{mixer.kind}_norm", tensor, sizes, epsilon=epsilon), mixer=mixer)
                for mixer, tensor in blocks
            )
        )

    return rms_decoder(config, "apertus", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def _mlp(index: int, sizes: Sizes, activation: str) -> MLP:
    tensors = f"model.layers.{index}.mlp"
    if activation == "xielu":
        return xielu_mlp(index, sizes, tensors)
    return plain_mlp(index, sizes, ACTIVATIONS[activation], tensors, up="up_proj", down="down_proj", bias=False)


ARCHITECTURE = Architecture(
    model_type="apertus",
    read=read,
    # of xIELU: its two constants, which are no parameters
    ignored_tensors=(*IGNORED_TENSORS, r"model\.layers\.\d+\.mlp\.act_fn\.(beta|eps)"),
)
