"""GPT-Neo (Black et al. 2021): GPT-2 whose layers see all of the past or a window, in turn; scores are not scaled."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    effective_window,
    embedding_and_head,
    layer_norm,
    matrix,
    plain_mlp,
    read_activation,
    separate_attention,
)
from edgepress.exporter.model.architectures._older import (
    NO_HEAD_KEY,
    layer_norm_decoder,
    layer_norm_layer,
    read_old_sizes,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.source.config import Config

_KEYS = {
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_layers",
    "heads": "num_heads",
    "context": "max_position_embeddings",
}
_TYPES = ("global", "local")


def read(config: Config) -> Decoder:
    """Defaults are transformers' GPTNeoConfig's."""
    sizes = read_old_sizes(config, vocab=50257, hidden=2048, layers=24, heads=16, context=2048, names=_KEYS)
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    activation = read_activation(config, "activation_function", "gelu_new")
    window = effective_window(config.integer("window_size", 256), sizes.context)
    types = layer_types(config, sizes.layers)
    ends = embedding_and_head(config, sizes, tied=True, embedding="transformer.wte.weight")

    def layer(index: int) -> Layer:
        tensors = f"transformer.h.{index}"
        attention = separate_attention(
            index,
            sizes,
            scale=1.0,
            output_bias=True,
            output="out_proj",
            tensors=f"{tensors}.attn.attention",
            rope=None,
            window=window if types[index] == "local" else None,
        )
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="c_fc", down="c_proj")
        return layer_norm_layer(index, sizes, epsilon, (attention, mlp), tensors, norms=("ln_1", "ln_2"))

    final_norm = layer_norm("final_norm", "transformer.ln_f", sizes.hidden, epsilon)
    positions = matrix("positions", "positions", "transformer.wpe.weight", sizes.context, sizes.hidden)
    return layer_norm_decoder("gpt_neo", sizes, layer, ends, final_norm, positions=positions)


def layer_types(config: Config, layers: int) -> list[str]:
    """Spell out ``attention_types``, such as ``[[["global", "local"], 12]]``: words, and how often they repeat."""
    given = config.values.get("attention_types")
    config.without_effect("attention_types")  # where the next key, which transformers writes, spells it out
    if (spelled_out := config.optional_texts("attention_layers", layers, _TYPES)) is not None:
        return spelled_out
    types: list[str] = []
    for entry in given if isinstance(given, list) else [[[*_TYPES], 12]]:
        words, count = entry if isinstance(entry, list) and len(entry) == 2 else (None, 0)
        if not isinstance(words, list) or not isinstance(count, int) or not {*map(str, words)} <= {*_TYPES}:
            raise config.refuse("attention_types", f"must be pairs of a list of {' and '.join(_TYPES)} and a number")
        if count > layers:
            raise config.refuse("attention_types", f"says {count} times a list, and there are {layers} layers")
        types += [str(word) for word in words] * count
    if len(types) != layers:
        raise config.refuse("attention_types", f"says {len(types)} layers, and num_layers is {layers}")
    return types


def _by_layer(config: Config, layers: int) -> dict[str, list[object]]:
    types = layer_types(config, layers)
    return {"attention_types": [[[kind], 1] for kind in types], "attention_layers": [*types]}


ARCHITECTURE = Architecture(
    model_type="gpt_neo",
    read=read,
    ignored_tensors=(
        r"(transformer\.)?h\.\d+\.attn\.attention\.(bias|masked_bias)",  # masks
        r"lm_head\.weight",
    ),
    base_prefix="transformer.",
    layers_key="num_layers",
    keeps_heads=NO_HEAD_KEY,
    by_layer=_by_layer,
    aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
)
