"""VaultGemma (Google 2025): Gemma 2 without norms of what attention and MLP add."""

from edgepress.exporter.model.architectures import Architecture, gemma2
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' VaultGemmaConfig's, which are Gemma 2's."""
    return gemma2.read_as(config, "vaultgemma", post_norms=False)


ARCHITECTURE = Architecture(
    model_type="vaultgemma", read=read, ignored_tensors=IGNORED_TENSORS, by_layer=gemma2.by_layer
)
