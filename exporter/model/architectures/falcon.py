"""Falcon (Almazrouei et al. 2023): rotary or ALiBi, one or few keys and values, blocks beside each other or not."""

import numpy as np

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
    alibi_slopes,
    fused_attention,
    grouped_qkv,
    layer_norm_decoder,
    layer_norm_layer,
    read_old_sizes,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.parts.primitives import Alibi
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' FalconConfig's.

    ``new_decoder_architecture`` (Falcon-40B) has ``num_kv_heads`` and, beside each other, blocks with a norm each; the
    older one has one key and value, or one for each head without ``multi_query``, and one norm for both blocks where
    they are beside each other (``parallel_attn``).
    """
    new = config.flag("new_decoder_architecture", False)
    kv_heads = _kv_heads(config, new=new)
    keys = SIZE_KEYS | {"intermediate": "ffn_hidden_size"}
    sizes = read_old_sizes(
        config, vocab=65024, hidden=4544, layers=32, heads=71, context=2048, names=keys, kv_heads=kv_heads
    )
    if sizes.heads % sizes.kv_heads:
        raise config.refuse("num_kv_heads", f"must divide num_attention_heads = {sizes.heads}")
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    activation = read_activation(config, "activation", "gelu")
    bias, parallel = config.flag("bias", False), config.flag("parallel_attn", True)
    norms = _norms(config, new=new, parallel=parallel)
    has_alibi = config.flag("alibi", False)
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    rounded = tuple(_in_bfloat16(slope) for slope in alibi_slopes(sizes.heads))
    alibi = Alibi(rounded, factor=sizes.head_dim**-0.5, in_bfloat16=True) if has_alibi else None
    ends = embedding_and_head(config, sizes, tied=True, embedding="transformer.word_embeddings.weight")

    def layer(index: int) -> Layer:
        tensors, hidden = f"transformer.h.{index}", sizes.hidden
        qkv = grouped_qkv(index, sizes, f"{tensors}.self_attention.query_key_value", bias=bias)
        output = linear(
            f"layers.{index}.attention.output", f"{tensors}.self_attention.dense", hidden, hidden, bias=bias
        )
        attention = fused_attention(sizes, qkv, output, rope=None if has_alibi else "default", alibi=alibi)
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="dense_h_to_4h", down="dense_4h_to_h", bias=bias)
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors, norms=norms, parallel=parallel)

    final_norm = layer_norm("final_norm", "transformer.ln_f", sizes.hidden, epsilon)
    return layer_norm_decoder("falcon", sizes, layer, ends, final_norm, rope=None if has_alibi else rope)


def _kv_heads(config: Config, *, new: bool) -> int | None:
    """Key-value heads; None means as many as heads."""
    count, one = config.optional_integer("num_kv_heads"), config.flag("multi_query", True)
    if new:
        return count
    heads = config.integer("num_attention_heads", 71)
    if not one and count not in (None, heads):
        raise config.refuse("num_kv_heads", f"without multi_query it is num_attention_heads = {heads}")
    return 1 if one else None


def _norms(config: Config, *, new: bool, parallel: bool) -> tuple[str, str]:
    count = config.optional_integer("num_ln_in_parallel_attn")
    if not parallel:
        if new:
            raise config.refuse("parallel_attn", "new_decoder_architecture has blocks beside each other alone")
        return "input_layernorm", "post_attention_layernorm"
    if count not in (None, 1, 2) or (count == 2 and not new):
        raise config.refuse("num_ln_in_parallel_attn", "must be 1, or 2 with new_decoder_architecture")
    return ("ln_attn", "ln_mlp") if new and count != 1 else ("input_layernorm", "input_layernorm")


def _in_bfloat16(value: float) -> float:
    """Rounded to 8 bits of mantissa, ties to even."""
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.round(np.ldexp(mantissa, 8)), exponent - 8))


ARCHITECTURE = Architecture(
    model_type="falcon",
    read=read,
    ignored_tensors=(r"lm_head\.weight", r"(transformer\.)?h\.\d+\.self_attention\.rotary_emb\.inv_freq"),
    base_prefix="transformer.",
    width_key="ffn_hidden_size",
    keeps_heads=NO_HEAD_KEY,
    config_keys=("head_dim",),
    aliases={"n_embed": "hidden_size"},
)
