"""Seed-OSS (ByteDance 2025): Llama with biases on q, k and v, and heads whose width is not hidden / heads."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, llama_decoder, read_sizes
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' SeedOssConfig's."""
    sizes = read_sizes(
        config,
        vocab=155136,
        hidden=4096,
        intermediate=27648,
        layers=64,
        heads=80,
        kv_heads=8,
        head_dim=128,
        context=524288,
    )
    return llama_decoder(
        config,
        "seed_oss",
        sizes,
        read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context),
        qkv_bias=config.flag("attention_bias", True),
        output_bias=config.flag("attention_out_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )


ARCHITECTURE = Architecture(model_type="seed_oss", read=read, ignored_tensors=IGNORED_TENSORS)
