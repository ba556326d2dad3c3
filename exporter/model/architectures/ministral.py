"""Ministral 8B of 2024 (Mistral AI): Mistral with windows in the layers that its config lists."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    llama_decoder,
    read_sizes,
    windows_of,
)
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' MinistralConfig's; without ``layer_types`` all slide, or none without a window."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, context=131_072
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    sliding = config.optional_integer("sliding_window", 4096)
    types = config.optional_texts("layer_types", sizes.layers, LAYER_TYPES)
    windows = windows_of(config, types or [LAYER_TYPES[sliding is not None]] * sizes.layers, sliding, sizes)
    return llama_decoder(config, "ministral", sizes, rope, windows=windows)


ARCHITECTURE = Architecture(model_type="ministral", read=read, ignored_tensors=IGNORED_TENSORS)
