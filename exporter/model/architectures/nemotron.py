"""Nemotron 3 and 4, Minitron (NVIDIA 2024): layer norms whose gains are stored minus one, squared ReLU, no gate."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    assembled,
    layer_norm,
    plain_mlp,
    read_activation,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

NORM_PLUS = 1.0  # NemotronLayerNorm1P multiplies by 1 + weight


def read(config: Config) -> Decoder:
    """Defaults are transformers' NemotronConfig's, half of each head rotated among them."""
    sizes = read_sizes(
        config, vocab=256000, hidden=6144, intermediate=24576, layers=32, heads=48, kv_heads=None, context=4096
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, partial=True, share=0.5)
    epsilon = config.number("norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "relu2")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)

    def layer(index: int) -> Layer:
        name, tensors = f"layers.{index}", f"model.layers.{index}"
        attention = separate_attention(index, sizes, qkv_bias=attention_bias, output_bias=attention_bias)
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="up_proj", down="down_proj", bias=mlp_bias)
        return Layer(
            tuple(
                Block(
                    norm=layer_norm(
                        f"{name}.{mixer.kind}_norm", f"{tensors}.{tensor}", sizes.hidden, epsilon, plus=NORM_PLUS
                    ),
                    mixer=mixer,
                )
                for mixer, tensor in ((attention, "input_layernorm"), (mlp, "post_attention_layernorm"))
            )
        )

    return assembled(
        config,
        "nemotron",
        sizes,
        layer,
        final_norm=layer_norm("final_norm", "model.norm", sizes.hidden, epsilon, plus=NORM_PLUS),
        ropes={"default": rope},
        tied=False,
    )


ARCHITECTURE = Architecture(model_type="nemotron", read=read, ignored_tensors=IGNORED_TENSORS)
