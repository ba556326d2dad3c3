"""GPT-NeoX-Japanese (ABEJA 2022): GPT-NeoX, one after the other and without biases but the last attention's."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
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
    read_old_sizes,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_BASE = "gpt_neox_japanese"


def read(config: Config) -> Decoder:
    """Defaults are transformers' GPTNeoXJapaneseConfig's; MLPs are ``intermediate_multiple_size`` times as wide."""
    keys = {key: name for key, name in SIZE_KEYS.items() if key != "intermediate"}
    hidden = config.integer("hidden_size", 2560)
    width = hidden * config.integer("intermediate_multiple_size", 4)
    sizes = read_old_sizes(
        config, vocab=32000, hidden=2560, layers=32, heads=32, context=2048, names=keys, intermediate=width
    )
    rope = read_rope(
        config,
        head_dim=sizes.head_dim,
        context_length=sizes.context,
        partial=True,
        outside=("rotary_emb_base", "rotary_pct"),
    )
    epsilon = config.number("layer_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "gelu")
    ends = embedding_and_head(config, sizes, tied=True, embedding=f"{_BASE}.embed_in.weight")

    def layer(index: int) -> Layer:
        tensors, name = f"{_BASE}.layers.{index}", f"layers.{index}.attention.output"
        qkv = grouped_qkv(index, sizes, f"{tensors}.attention.query_key_value", bias=False)
        output = linear(name, f"{tensors}.attention.dense", sizes.hidden, sizes.hidden)
        if index == sizes.layers - 1:
            part = Part(f"{tensors}.attention.dense_bias", 0, sizes.hidden)
            output = Linear(output.weight, Weight(f"{name}.bias", "bias", (sizes.hidden,), (part,)))
        attention = fused_attention(sizes, qkv, output, rope="default")
        mlp = plain_mlp(
            index, sizes, activation, f"{tensors}.mlp", up="dense_h_to_4h", down="dense_4h_to_h", bias=False
        )
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors)

    final_norm = layer_norm("final_norm", f"{_BASE}.final_layer_norm", sizes.hidden, epsilon)
    return layer_norm_decoder("gpt_neox_japanese", sizes, layer, ends, final_norm, rope=rope)


ARCHITECTURE = Architecture(
    model_type="gpt_neox_japanese",
    read=read,
    ignored_tensors=(
        rf"({_BASE}\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",  # masks
        r"(lm_head|embed_out)\.weight",
    ),
    base_prefix=f"{_BASE}.",
    width_key="",
    keeps_heads=NO_HEAD_KEY,
    keeps_sizes="its last layer alone has a bias",
    config_keys=("head_dim", "is_decoder"),
    other_names={"lm_head.": "embed_out."},
)
