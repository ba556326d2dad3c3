"""Ministral 3 (Mistral AI 2025): Mistral with YaRN, whose queries grow with the position."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    effective_window,
    llama_decoder,
    read_sizes,
)
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

ROPE: dict[str, object] = {
    "type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def read(config: Config) -> Decoder:
    """Defaults are transformers' Ministral3Config's, and this rope is one of them; ``sliding_window`` is none."""
    sizes = read_sizes(
        config,
        vocab=131_072,
        hidden=4096,
        intermediate=14336,
        layers=34,
        heads=32,
        kv_heads=8,
        head_dim=128,
        context=262_144,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, query_growth=True, default=ROPE)
    sliding = config.optional_integer("sliding_window")
    window = None if sliding is None else effective_window(sliding, sizes.context)
    return llama_decoder(config, "ministral3", sizes, rope, epsilon=1e-5, windows=[window] * sizes.layers)


ARCHITECTURE = Architecture(model_type="ministral3", read=read, ignored_tensors=IGNORED_TENSORS)
