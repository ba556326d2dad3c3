"""GPT-NeoX (Black et al. 2022): Pythia, Dolly, RedPajama. qkv stored head by head, rotary of a quarter of each head."""

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
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GPTNeoXConfig's; ``rotary_emb_base`` and ``rotary_pct`` are theta and partial factor.

    With ``use_parallel_residual`` attention and MLP read the same stream, each behind a norm of its own.
    """
    sizes = read_old_sizes(config, vocab=50432, hidden=6144, layers=44, heads=64, context=2048, names=SIZE_KEYS)
    rope = read_rope(
        config,
        head_dim=sizes.head_dim,
        context_length=sizes.context,
        partial=True,
        share=0.25,
        outside=("rotary_emb_base", "rotary_pct"),
    )
    epsilon = config.number("layer_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "gelu")
    parallel, bias = config.flag("use_parallel_residual", True), config.flag("attention_bias", True)
    ends = embedding_and_head(config, sizes, tied=False, embedding="gpt_neox.embed_in.weight")

    def layer(index: int) -> Layer:
        tensors = f"gpt_neox.layers.{index}"
        qkv = grouped_qkv(index, sizes, f"{tensors}.attention.query_key_value", bias=bias)
        output = linear(
            f"layers.{index}.attention.output", f"{tensors}.attention.dense", sizes.hidden, sizes.hidden, bias=bias
        )
        attention = fused_attention(sizes, qkv, output, rope="default")
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="dense_h_to_4h", down="dense_4h_to_h")
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors, parallel=parallel)

    final_norm = layer_norm("final_norm", "gpt_neox.final_layer_norm", sizes.hidden, epsilon)
    return layer_norm_decoder("gpt_neox", sizes, layer, ends, final_norm, rope=rope)


ARCHITECTURE = Architecture(
    model_type="gpt_neox",
    read=read,
    ignored_tensors=(
        r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",  # masks
        r"(lm_head|embed_out)\.weight",
    ),
    base_prefix="gpt_neox.",
    keeps_heads=NO_HEAD_KEY,
    config_keys=("head_dim", "is_decoder"),
    other_names={"lm_head.": "embed_out."},
)
