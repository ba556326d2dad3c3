"""GPT-BigCode (Ben Allal et al. 2023): SantaCoder, StarCoder. GPT-2 with one key and value for all heads."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    embedding_and_head,
    layer_norm,
    linear,
    matrix,
    plain_mlp,
    read_activation,
)
from edgepress.exporter.model.architectures._older import (
    GPT2_ALIASES,
    GPT2_KEYS,
    NO_HEAD_KEY,
    fused_attention,
    grouped_qkv,
    layer_norm_decoder,
    layer_norm_layer,
    read_old_sizes,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GPTBigCodeConfig's.

    With ``multi_query`` one key and one value stand below all queries; without, each head's stand together.
    """
    kv_heads = 1 if config.flag("multi_query", True) else None
    sizes = read_old_sizes(
        config, vocab=50257, hidden=768, layers=12, heads=12, context=1024, names=GPT2_KEYS, kv_heads=kv_heads
    )
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    activation = read_activation(config, "activation_function", "gelu_pytorch_tanh")
    scale = sizes.head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    # the same scores, computed in float32 as here
    config.without_effect("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
    ends = embedding_and_head(config, sizes, tied=True, embedding="transformer.wte.weight")

    def layer(index: int) -> Layer:
        tensors = f"transformer.h.{index}"
        qkv = grouped_qkv(index, sizes, f"{tensors}.attn.c_attn", bias=True)
        output = linear(
            f"layers.{index}.attention.output", f"{tensors}.attn.c_proj", sizes.hidden, sizes.hidden, bias=True
        )
        attention = fused_attention(sizes, qkv, output, scale=scale)
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="c_fc", down="c_proj")
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors, norms=("ln_1", "ln_2"))

    final_norm = layer_norm("final_norm", "transformer.ln_f", sizes.hidden, epsilon)
    positions = matrix("positions", "positions", "transformer.wpe.weight", sizes.context, sizes.hidden)
    return layer_norm_decoder("gpt_bigcode", sizes, layer, ends, final_norm, positions=positions)


ARCHITECTURE = Architecture(
    model_type="gpt_bigcode",
    read=read,
    ignored_tensors=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)", r"lm_head\.weight"),  # masks; the tied head
    base_prefix="transformer.",
    layers_key="n_layer",
    width_key="n_inner",
    keeps_heads=NO_HEAD_KEY,
    config_keys=("add_cross_attention",),
    aliases=GPT2_ALIASES,
)
