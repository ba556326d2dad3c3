"""Code World Model (Meta 2025): Llama with windows in three of four layers."""

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

ROPE: dict[str, object] = {
    "rope_type": "llama3",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_EVERY = 4  # the first of so many layers sees everything


def read(config: Config) -> Decoder:
    """Defaults are transformers' CwmConfig's, and llama3's rope is one of them."""
    sizes = read_sizes(
        config,
        vocab=128256,
        hidden=6144,
        intermediate=21504,
        layers=64,
        heads=48,
        kv_heads=8,
        head_dim=128,
        context=131072,
    )
    types = _layer_types(config, sizes.layers)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 8192), sizes)
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=1_000_000.0, default=ROPE)
    return llama_decoder(
        config, "cwm", sizes, rope, epsilon=1e-5, mlp_bias=config.flag("mlp_bias", False), windows=windows
    )


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Full attention in the first of every four layers."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[bool(index % _EVERY)] for index in range(layers)]


ARCHITECTURE = Architecture(model_type="cwm", read=read, ignored_tensors=IGNORED_TENSORS, by_layer=by_layer)
