"""Persimmon (Adept 2023): qkv stored head by head, norms of q and k, squared ReLU, rotary of half of each head."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    embedding_and_head,
    layer_norm,
    linear,
    plain_mlp,
    read_activation,
)
from edgepress.exporter.model.architectures._older import (
    NO_HEAD_KEY,
    SIZE_KEYS,
    fused_attention,
    grouped_qkv,
    layer_norm_decoder,
    layer_norm_layer,
    norms_of_heads,
    read_old_sizes,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' PersimmonConfig's."""
    sizes = read_old_sizes(
        config, vocab=262144, hidden=4096, layers=36, heads=64, context=16384, names=SIZE_KEYS, intermediate=16384
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, partial=True, share=0.5)
    epsilon = config.number("layer_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "relu2")
    normed = config.flag("qk_layernorm", True)
    ends = embedding_and_head(config, sizes, tied=False)

    def layer(index: int) -> Layer:
        tensors, hidden = f"model.layers.{index}", sizes.hidden
        qkv = grouped_qkv(index, sizes, f"{tensors}.self_attn.query_key_value", bias=True)
        output = linear(f"layers.{index}.attention.output", f"{tensors}.self_attn.dense", hidden, hidden, bias=True)
        norms = norms_of_heads(index, sizes, epsilon) if normed else None
        attention = fused_attention(sizes, qkv, output, rope="default", norms=norms)
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="dense_h_to_4h", down="dense_4h_to_h")
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors)

    final_norm = layer_norm("final_norm", "model.final_layernorm", sizes.hidden, epsilon)
    return layer_norm_decoder("persimmon", sizes, layer, ends, final_norm, rope=rope)


ARCHITECTURE = Architecture(
    model_type="persimmon",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    keeps_heads=NO_HEAD_KEY,
    config_keys=("head_dim",),
)
