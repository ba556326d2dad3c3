"""CodeGen (Nijkamp et al. 2022): GPT-J whose q, v and k are stored as the four devices that trained it had them."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    Sizes,
    embedding_and_head,
    layer_norm,
    linear,
    plain_mlp,
    read_activation,
)
from edgepress.exporter.model.architectures._older import (
    GPT2_ALIASES,
    GPT2_KEYS,
    NO_HEAD_KEY,
    fused_attention,
    layer_norm_decoder,
    layer_norm_layer,
    read_old_sizes,
    rotary_of_neighbours,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_DEVICES = 4


def read(config: Config) -> Decoder:
    """Defaults are transformers' CodeGenConfig's."""
    sizes = read_old_sizes(config, vocab=50400, hidden=4096, layers=28, heads=16, context=2048, names=GPT2_KEYS)
    if sizes.hidden % _DEVICES:
        raise config.refuse("n_embd", f"must be a multiple of {_DEVICES}, as qkv is stored in so many pieces")
    rope = rotary_of_neighbours(config, sizes)
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    activation = read_activation(config, "activation_function", "gelu_new")
    ends = embedding_and_head(config, sizes, tied=False, embedding="transformer.wte.weight", head_bias=True)

    def layer(index: int) -> Layer:
        tensors = f"transformer.h.{index}"
        output = linear(f"layers.{index}.attention.output", f"{tensors}.attn.out_proj", sizes.hidden, sizes.hidden)
        attention = fused_attention(sizes, _qkv(index, sizes), output, rope="default")
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="fc_in", down="fc_out")
        one = ("ln_1", "ln_1")
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors, norms=one, parallel=True)

    final_norm = layer_norm("final_norm", "transformer.ln_f", sizes.hidden, epsilon)
    return layer_norm_decoder("codegen", sizes, layer, ends, final_norm, rope=rope)


def _qkv(index: int, sizes: Sizes) -> Linear:
    """Each device's rows are those of its queries, its values and its keys."""
    tensor, rows = f"transformer.h.{index}.attn.qkv_proj.weight", sizes.hidden // _DEVICES
    starts = [(3 * device + place) * rows for place in (0, 2, 1) for device in range(_DEVICES)]  # q, k, v
    parts = tuple(Part(tensor, start, start + rows) for start in starts)
    return Linear(Weight(f"layers.{index}.attention.qkv", "linear", (3 * sizes.hidden, sizes.hidden), parts))


ARCHITECTURE = Architecture(
    model_type="codegen",
    read=read,
    ignored_tensors=(r"(transformer\.)?h\.\d+\.attn\.(causal_mask|bias|masked_bias)", r"lm_head\.weight"),
    base_prefix="transformer.",
    layers_key="n_layer",
    width_key="n_inner",
    keeps_heads=NO_HEAD_KEY,
    aliases=GPT2_ALIASES,
)
