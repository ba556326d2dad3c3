"""MPT (MosaicML 2023): ALiBi, layer norms and projections without biases."""

import math

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import embedding_and_head, layer_norm, linear, plain_mlp
from edgepress.exporter.model.architectures._older import (
    NO_HEAD_KEY,
    fused_attention,
    layer_norm_decoder,
    layer_norm_layer,
    read_old_sizes,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.parts.primitives import Alibi
from edgepress.exporter.source.config import Config

_KEYS = {"hidden": "d_model", "layers": "n_layers", "heads": "n_heads", "context": "max_seq_len"}
_STEEPEST = 8  # ALiBi's slopes are powers of 2 from 2^−8/n to 2^−8


def read(config: Config) -> Decoder:
    """Defaults are transformers' MptConfig's. What it has keys for and does not compute is refused."""
    sizes = read_old_sizes(config, vocab=50368, hidden=2048, layers=24, heads=16, context=2048, names=_KEYS)
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    config.without_effect("init_device", "embedding_fraction", "learned_pos_emb", "norm_type")
    if config.integer("expansion_ratio", 4) != 4:
        raise config.refuse("expansion_ratio", "transformers computes MLPs four times as wide as the stream")
    if not config.flag("no_bias", True):
        raise config.refuse("no_bias", "not implemented, as transformers has no biases")
    scale, clip = _read_attention(config.section("attn_config") or Config({}))
    ends = embedding_and_head(config, sizes, tied=True, embedding="transformer.wte.weight")
    alibi = Alibi(slopes(sizes.heads))

    def layer(index: int) -> Layer:
        tensors, hidden = f"transformer.blocks.{index}", sizes.hidden
        qkv = linear(f"layers.{index}.attention.qkv", f"{tensors}.attn.Wqkv", 3 * hidden, hidden)
        output = linear(f"layers.{index}.attention.output", f"{tensors}.attn.out_proj", hidden, hidden)
        attention = fused_attention(sizes, qkv, output, alibi=alibi, scale=scale, clip=clip)
        mlp = plain_mlp(index, sizes, "gelu", f"{tensors}.ffn", up="up_proj", down="down_proj", bias=False)
        names = ("norm_1", "norm_2")
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors, norms=names, bias=False)

    final_norm = layer_norm("final_norm", "transformer.norm_f", sizes.hidden, epsilon, bias=False)
    return layer_norm_decoder("mpt", sizes, layer, ends, final_norm)


def _read_attention(config: Config) -> tuple[float | None, float]:
    """Scale of scores and bound of q, k and v."""
    config.text("attn_type", "multihead_attention", ("multihead_attention",))
    for key, only in (("alibi", True), ("qk_ln", False), ("prefix_lm", False)):
        if config.flag(key, only) != only:
            raise config.refuse(key, "not implemented, as transformers does not compute it")
    if config.number("alibi_bias_max", _STEEPEST) != _STEEPEST:
        raise config.refuse("alibi_bias_max", f"transformers computes with {_STEEPEST} alone")
    config.without_effect("attn_impl", "attn_uses_sequence_id")  # the same mathematics; texts that share a row
    return config.optional_number("softmax_scale"), config.optional_number("clip_qkv") or 0.0


def slopes(heads: int) -> tuple[float, ...]:
    """2^(−8 i / n) for the power of two n at or above the number of heads; of more than there are, even i first."""
    power = 2 ** math.ceil(math.log2(heads))
    found = [2.0 ** (-_STEEPEST * index / power) for index in range(1, power + 1)]
    return tuple(found if power == heads else [*found[1::2], *found[::2]][:heads])


ARCHITECTURE = Architecture(
    model_type="mpt",
    read=read,
    ignored_tensors=(r"lm_head\.weight",),
    base_prefix="transformer.",
    layers_key="n_layers",
    width_key="",
    keeps_heads=NO_HEAD_KEY,
    config_keys=("logit_scale",),
    aliases={"num_attention_heads": "n_heads", "hidden_size": "d_model", "num_hidden_layers": "n_layers"},
)
