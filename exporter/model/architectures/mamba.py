"""Mamba (Gu & Dao 2023): selective state spaces and nothing else, one in each layer."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._mamba import read_mamba
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' MambaConfig's."""
    return read_mamba(config, "mamba", plain_norms=None)


ARCHITECTURE = Architecture(
    model_type="mamba",
    read=read,
    ignored_tensors=(r"lm_head\.weight",),
    base_prefix="backbone.",
    other_names={"backbone.embeddings.": "backbone.embedding."},
)
