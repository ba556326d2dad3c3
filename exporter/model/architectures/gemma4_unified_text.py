"""Gemma 4's text model in the size that reads images without a tower (12B, Google 2026): no inputs by layer."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures.gemma4_text import ARCHITECTURE as GEMMA_4
from edgepress.exporter.model.architectures.gemma4_text import read_dense
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Gemma4UnifiedTextConfig's."""
    return read_dense(config, "gemma4_unified_text", context=262_144, window=1024)


ARCHITECTURE = Architecture(
    model_type="gemma4_unified_text",
    read=read,
    ignored_tensors=GEMMA_4.ignored_tensors,
    keeps_sizes="heads of two sizes, keys that layers share",
    config_keys=("partial_rotary_factor",),
)
