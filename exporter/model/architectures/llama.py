"""Llama 1 to 3.2 (Touvron et al. 2023; Dubey et al. 2024) and what shares its form: SmolLM2, TinyLlama, Yi."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, llama_decoder, read_sizes
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' LlamaConfig's. ``attention_bias`` and ``mlp_bias`` are for all their projections."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    bias = config.flag("attention_bias", False)
    return llama_decoder(
        config, "llama", sizes, rope, qkv_bias=bias, output_bias=bias, mlp_bias=config.flag("mlp_bias", False)
    )


ARCHITECTURE = Architecture(model_type="llama", read=read, ignored_tensors=IGNORED_TENSORS)
