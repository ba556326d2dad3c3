"""Phi-1, 1.5 and 2 (Gunasekar et al. 2023): attention and MLP beside each other behind one layer norm, biases."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    embedding_and_head,
    layer_norm,
    plain_mlp,
    read_activation,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.architectures._older import layer_norm_decoder, layer_norm_layer, norms_of_heads
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' PhiConfig's. ``qk_layernorm`` norms each head of q and k; all heads have one gain."""
    sizes = read_sizes(
        config, vocab=51200, hidden=2048, intermediate=8192, layers=24, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, partial=True, share=0.5)
    epsilon = config.number("layer_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "gelu_new")
    normed = config.flag("qk_layernorm", False)
    ends = embedding_and_head(config, sizes, tied=False, head_bias=True)

    def layer(index: int) -> Layer:
        tensors = f"model.layers.{index}"
        norms = norms_of_heads(index, sizes, epsilon) if normed else None
        attention = separate_attention(index, sizes, qkv_bias=True, output_bias=True, output="dense", norms=norms)
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="fc1", down="fc2")
        one = ("input_layernorm", "input_layernorm")
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors, norms=one, parallel=True)

    final_norm = layer_norm("final_norm", "model.final_layernorm", sizes.hidden, epsilon)
    return layer_norm_decoder("phi", sizes, layer, ends, final_norm, rope=rope)


ARCHITECTURE = Architecture(model_type="phi", read=read, ignored_tensors=IGNORED_TENSORS)
