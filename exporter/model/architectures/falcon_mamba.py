"""Falcon Mamba (TII 2024): Mamba with RMS norms, without gains, of the step, B and C."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._mamba import read_mamba
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' FalconMambaConfig's."""
    config.without_effect("use_falcon_mambapy")
    return read_mamba(config, "falcon_mamba", plain_norms=config.number("mixer_rms_eps", 1e-6, above=0.0))


ARCHITECTURE = Architecture(
    model_type="falcon_mamba",
    read=read,
    ignored_tensors=(r"lm_head\.weight",),
    base_prefix="backbone.",
    other_names={"backbone.embeddings.": "backbone.embedding."},
)
