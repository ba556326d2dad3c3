"""BLOOM (BigScience 2022): ALiBi in the place of positions, a norm of the embedding, qkv stored head by head."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import Sizes, embedding_and_head, layer_norm, linear, plain_mlp
from edgepress.exporter.model.architectures._older import (
    NO_HEAD_KEY,
    alibi_slopes,
    fused_attention,
    grouped_qkv,
    layer_norm_decoder,
    layer_norm_layer,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.parts.primitives import Alibi
from edgepress.exporter.source.config import Config

_CONTEXT = 2048  # of its training; no key says so, and transformers knows no limit


def read(config: Config) -> Decoder:
    """Defaults are transformers' BloomConfig's; MLPs are four times as wide as the stream."""
    hidden, heads = config.integer("hidden_size", 64), config.integer("n_head", 8)
    if hidden % heads:
        raise config.refuse("hidden_size", f"must be a multiple of n_head = {heads}")
    layers = config.integer("n_layer", 2)
    sizes = Sizes(
        vocab=config.integer("vocab_size", 250880),
        hidden=hidden,
        intermediate=(4 * hidden,) * layers,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        context=_CONTEXT,
    )
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    if config.flag("apply_residual_connection_post_layernorm", False):
        raise config.refuse("apply_residual_connection_post_layernorm", "not implemented; no BLOOM was made with it")
    config.without_effect("slow_but_exact")  # pieces of the same products, added up
    ends = embedding_and_head(config, sizes, tied=True, embedding="transformer.word_embeddings.weight")
    alibi = Alibi(alibi_slopes(heads))

    def layer(index: int) -> Layer:
        tensors = f"transformer.h.{index}"
        qkv = grouped_qkv(index, sizes, f"{tensors}.self_attention.query_key_value", bias=True)
        output = linear(
            f"layers.{index}.attention.output", f"{tensors}.self_attention.dense", hidden, hidden, bias=True
        )
        mlp = plain_mlp(index, sizes, "gelu_tanh", f"{tensors}.mlp", up="dense_h_to_4h", down="dense_4h_to_h")
        return layer_norm_layer(index, sizes, epsilon, (fused_attention(sizes, qkv, output, alibi=alibi), mlp), tensors)

    embedding_norm = layer_norm("embedding_norm", "transformer.word_embeddings_layernorm", hidden, epsilon)
    final_norm = layer_norm("final_norm", "transformer.ln_f", hidden, epsilon)
    return layer_norm_decoder("bloom", sizes, layer, ends, final_norm, embedding_norm=embedding_norm)


ARCHITECTURE = Architecture(
    model_type="bloom",
    read=read,
    ignored_tensors=(r"lm_head\.weight",),
    base_prefix="transformer.",
    layers_key="n_layer",
    width_key="",
    keeps_heads=NO_HEAD_KEY,
    aliases={"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
)
