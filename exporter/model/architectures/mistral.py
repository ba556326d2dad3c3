"""Mistral (Jiang et al. 2023): Llama with a sliding window in every layer (v0.1) or none (later)."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    effective_window,
    llama_decoder,
    read_sizes,
)
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' MistralConfig's; ``sliding_window`` missing is 4096, null is none."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, context=131072
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    sliding = config.optional_integer("sliding_window", 4096)
    types = config.optional_texts("layer_types", sizes.layers, LAYER_TYPES)  # as Ministral has them
    if types is not None and set(types) != {LAYER_TYPES[sliding is not None]}:
        raise config.refuse("layer_types", f"contradicts sliding_window = {sliding}, which Mistral has in every layer")
    window = None if sliding is None else effective_window(sliding, sizes.context)
    return llama_decoder(config, "mistral", sizes, rope, windows=[window] * sizes.layers)


ARCHITECTURE = Architecture(model_type="mistral", read=read, ignored_tensors=IGNORED_TENSORS)
