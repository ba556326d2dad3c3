"""BioGPT (Luo et al. 2022): GPT-2 with learned positions from row 2 on and a scaled embedding."""

import math

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    embedding_and_head,
    layer_norm,
    matrix,
    plain_mlp,
    read_activation,
    separate_attention,
)
from edgepress.exporter.model.architectures._older import (
    NO_HEAD_KEY,
    SIZE_KEYS,
    layer_norm_decoder,
    layer_norm_layer,
    read_old_sizes,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.source.config import Config

_EPSILON = 1e-5  # torch's default: transformers does not read layer_norm_eps
_FIRST = 2  # row of position 0: the rows before it are no position's


def read(config: Config) -> Decoder:
    """Defaults are transformers' BioGptConfig's."""
    sizes = read_old_sizes(config, vocab=42384, hidden=1024, layers=24, heads=16, context=1024, names=SIZE_KEYS)
    config.without_effect("layer_norm_eps")
    activation = read_activation(config, "hidden_act", "gelu")
    multiplier = math.sqrt(sizes.hidden) if config.flag("scale_embedding", True) else 1.0
    ends = embedding_and_head(config, sizes, tied=True, embedding="biogpt.embed_tokens.weight")

    def layer(index: int) -> Layer:
        tensors = f"biogpt.layers.{index}"
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=True,
            output_bias=True,
            output="out_proj",
            tensors=f"{tensors}.self_attn",
            rope=None,
        )
        mlp = plain_mlp(index, sizes, activation, tensors, up="fc1", down="fc2")
        names = ("self_attn_layer_norm", "final_layer_norm")
        return layer_norm_layer(index, sizes, _EPSILON, (attention, mlp), tensors, norms=names)

    table = "biogpt.embed_positions.weight"
    positions = matrix("positions", "positions", table, sizes.context, sizes.hidden, start=_FIRST)
    final_norm = layer_norm("final_norm", "biogpt.layer_norm", sizes.hidden, _EPSILON)
    return layer_norm_decoder(
        "biogpt", sizes, layer, ends, final_norm, positions=positions, embedding_multiplier=multiplier
    )


ARCHITECTURE = Architecture(
    model_type="biogpt",
    read=read,
    ignored_tensors=(r"(lm_head|output_projection)\.weight",),
    base_prefix="biogpt.",
    other_names={"lm_head.": "output_projection."},
    keeps_heads=NO_HEAD_KEY,
)
