"""GLM-4-0414 (Zhipu 2025): GLM with norms of what attention and MLP add."""

from edgepress.exporter.model.architectures import Architecture, glm
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Glm4Config's, which are GLM's."""
    return glm.read_as(config, "glm4", post_norms=True)


ARCHITECTURE = Architecture(model_type="glm4", read=read, ignored_tensors=IGNORED_TENSORS)
