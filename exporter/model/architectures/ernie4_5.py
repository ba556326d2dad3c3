"""ERNIE 4.5, dense (Baidu 2025): Llama whose rotary embedding turns neighbours."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, llama_decoder, read_sizes
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Ernie4_5Config's. ``use_bias`` is for all projections."""
    sizes = read_sizes(
        config,
        vocab=103424,
        hidden=1024,
        intermediate=3072,
        layers=18,
        heads=16,
        kv_heads=2,
        head_dim=128,
        context=131072,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=500_000.0, interleaved=True)
    bias = config.flag("use_bias", False)
    return llama_decoder(
        config, "ernie4_5", sizes, rope, epsilon=1e-5, tied=True, qkv_bias=bias, output_bias=bias, mlp_bias=bias
    )


ARCHITECTURE = Architecture(model_type="ernie4_5", read=read, ignored_tensors=IGNORED_TENSORS)
