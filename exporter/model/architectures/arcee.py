"""AFM (Arcee 2025): Llama with a squared ReLU and no gate."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    plain_mlp,
    pre_norm_layer,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' ArceeConfig's."""
    sizes = read_sizes(
        config, vocab=32000, hidden=2560, intermediate=18432, layers=32, heads=32, kv_heads=None, context=4096
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "relu2")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, qkv_bias=attention_bias, output_bias=attention_bias)
        tensors = f"model.layers.{index}.mlp"
        mlp = plain_mlp(index, sizes, activation, tensors, up="up_proj", down="down_proj", bias=mlp_bias)
        return pre_norm_layer(index, sizes, epsilon, attention, mlp)

    return rms_decoder(config, "arcee", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(model_type="arcee", read=read, ignored_tensors=IGNORED_TENSORS)
