"""OPT (Zhang et al. 2022): learned positions from row 2 on, relu; OPT-350M norms the stream and embeds narrower."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
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
    stream_norm_layer,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.source.config import Config

_EPSILON = 1e-5  # torch's default, which no key changes
_FIRST = 2  # row of position 0: the rows before it are no position's
_BASE = "model.decoder"


def read(config: Config) -> Decoder:
    """Defaults are transformers' OPTConfig's.

    Without ``do_layer_norm_before`` the stream itself is normed, behind attention and behind the MLP, and there is no
    final norm. Rows of the embedding that are narrower than the stream (``word_embed_proj_dim``) are projected, and
    the head's input back.
    """
    keys = SIZE_KEYS | {"intermediate": "ffn_dim"}
    sizes = read_old_sizes(config, vocab=50272, hidden=768, layers=12, heads=12, context=2048, names=keys)
    activation = read_activation(config, "activation_function", "relu")
    bias, before = config.flag("enable_bias", True), config.flag("do_layer_norm_before", True)
    if not config.flag("layer_norm_elementwise_affine", True):
        raise config.refuse("layer_norm_elementwise_affine", "layer norms without a gain are not implemented")
    has_final = before and not config.flag("_remove_final_layer_norm", False)
    width = config.optional_integer("word_embed_proj_dim") or sizes.hidden

    def layer(index: int) -> Layer:
        tensors = f"{_BASE}.layers.{index}"
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=bias,
            output_bias=bias,
            output="out_proj",
            tensors=f"{tensors}.self_attn",
            rope=None,
        )
        mlp = plain_mlp(index, sizes, activation, tensors, up="fc1", down="fc2", bias=bias)
        make = layer_norm_layer if before else stream_norm_layer
        names = ("self_attn_layer_norm", "final_layer_norm")
        return make(index, sizes, _EPSILON, (attention, mlp), tensors, norms=names)

    final_norm = layer_norm("final_norm", f"{_BASE}.final_layer_norm", sizes.hidden, _EPSILON)
    to_stream = _projection("embedding_projection", "project_in", sizes.hidden, width)
    back = _projection("head_projection", "project_out", width, sizes.hidden)
    projected = width != sizes.hidden
    return layer_norm_decoder(
        "opt",
        sizes,
        layer,
        _ends(config, sizes.vocab, width),
        final_norm if has_final else None,
        positions=matrix(
            "positions", "positions", f"{_BASE}.embed_positions.weight", sizes.context, sizes.hidden, start=_FIRST
        ),
        embedding_projection=to_stream if projected else None,
        head_projection=back if projected else None,
    )


def _ends(config: Config, vocab: int, width: int) -> tuple[Weight, Linear]:
    table = matrix("embedding", "embedding", f"{_BASE}.embed_tokens.weight", vocab, width)
    tied = config.flag("tie_word_embeddings", True)
    return table, Linear(table if tied else matrix("head", "head", "lm_head.weight", vocab, width))


def _projection(name: str, tensor: str, rows: int, columns: int) -> Linear:
    return Linear(matrix(name, "projection", f"{_BASE}.{tensor}.weight", rows, columns))


ARCHITECTURE = Architecture(
    model_type="opt", read=read, ignored_tensors=(r"lm_head\.weight",), width_key="ffn_dim", keeps_heads=NO_HEAD_KEY
)
