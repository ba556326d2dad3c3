"""Helium 1 (Kyutai 2025): Llama whose rotary embedding turns neighbours."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, llama_decoder, read_sizes
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' HeliumConfig's; ``o_proj`` has no bias, and its heads are as wide as the stream."""
    sizes = read_sizes(
        config,
        vocab=48000,
        hidden=2560,
        intermediate=7040,
        layers=24,
        heads=20,
        kv_heads=20,
        head_dim=128,
        context=4096,
    )
    if sizes.heads * sizes.head_dim != sizes.hidden:
        raise config.refuse("head_dim", f"Helium's {sizes.heads} heads are as wide as hidden_size = {sizes.hidden}")
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=100_000.0, interleaved=True)
    return llama_decoder(
        config,
        "helium",
        sizes,
        rope,
        epsilon=1e-8,
        qkv_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )


ARCHITECTURE = Architecture(model_type="helium", read=read, ignored_tensors=IGNORED_TENSORS)
