"""GPT-J (Wang and Komatsuzaki 2021): attention and MLP beside each other behind one norm, neighbours rotated."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    embedding_and_head,
    layer_norm,
    plain_mlp,
    read_activation,
    separate_attention,
)
from edgepress.exporter.model.architectures._older import (
    GPT2_ALIASES,
    GPT2_KEYS,
    NO_HEAD_KEY,
    layer_norm_decoder,
    layer_norm_layer,
    read_old_sizes,
    rotary_of_neighbours,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GPTJConfig's."""
    sizes = read_old_sizes(config, vocab=50400, hidden=4096, layers=28, heads=16, context=2048, names=GPT2_KEYS)
    rope = rotary_of_neighbours(config, sizes)
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    activation = read_activation(config, "activation_function", "gelu_new")
    ends = embedding_and_head(config, sizes, tied=False, embedding="transformer.wte.weight", head_bias=True)

    def layer(index: int) -> Layer:
        tensors = f"transformer.h.{index}"
        attention = separate_attention(index, sizes, output="out_proj", tensors=f"{tensors}.attn")
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="fc_in", down="fc_out")
        one = ("ln_1", "ln_1")
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors, norms=one, parallel=True)

    final_norm = layer_norm("final_norm", "transformer.ln_f", sizes.hidden, epsilon)
    return layer_norm_decoder("gptj", sizes, layer, ends, final_norm, rope=rope)


ARCHITECTURE = Architecture(
    model_type="gptj",
    read=read,
    ignored_tensors=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)", r"lm_head\.weight"),  # masks; a tied head
    base_prefix="transformer.",
    layers_key="n_layer",
    width_key="n_inner",
    keeps_heads=NO_HEAD_KEY,
    aliases=GPT2_ALIASES,
)
