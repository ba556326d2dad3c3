"""StarCoder2 (Lozhkov et al. 2024): rotary, grouped queries and windows as Mistral has them, layer norms, no gate."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    effective_window,
    embedding_and_head,
    layer_norm,
    plain_mlp,
    read_activation,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.architectures._older import layer_norm_decoder, layer_norm_layer
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Starcoder2Config's; ``use_bias`` is for all projections, the window for all layers."""
    sizes = read_sizes(
        config, vocab=49152, hidden=3072, intermediate=12288, layers=30, heads=24, kv_heads=2, context=4096
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("norm_epsilon", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "gelu_pytorch_tanh")
    bias, sliding = config.flag("use_bias", True), config.optional_integer("sliding_window")
    window = None if sliding is None else effective_window(sliding, sizes.context)
    ends = embedding_and_head(config, sizes, tied=True)

    def layer(index: int) -> Layer:
        tensors = f"model.layers.{index}"
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, window=window)
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="c_fc", down="c_proj", bias=bias)
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors)

    final_norm = layer_norm("final_norm", "model.norm", sizes.hidden, epsilon)
    return layer_norm_decoder("starcoder2", sizes, layer, ends, final_norm, rope=rope)


ARCHITECTURE = Architecture(model_type="starcoder2", read=read, ignored_tensors=IGNORED_TENSORS)
