"""Granite's experts with a shared one for every token (IBM 2024)."""

from edgepress.exporter.model.architectures import Architecture, granitemoe
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GraniteMoeSharedConfig's."""
    return granitemoe.decoder(config, "granitemoeshared")


ARCHITECTURE = Architecture(
    model_type="granitemoeshared",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    experts_keys=("num_local_experts",),
)
