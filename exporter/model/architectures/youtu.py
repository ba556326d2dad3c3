"""Youtu-LLM (Tencent 2025): Llama with multi-head latent attention."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    read_activation,
    rms_decoder,
)
from edgepress.exporter.model.architectures._mla import latent_attention, latent_rope, latent_sizes, read_latent
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' YoutuConfig's."""
    sizes = latent_sizes(config, vocab=128_256, hidden=2048, intermediate=6144, layers=32, heads=16, context=131_072)
    epsilon, activation = config.number("rms_norm_eps", 1e-6, above=0.0), read_activation(config, "hidden_act", "silu")
    latent = read_latent(
        config,
        sizes,
        query_rank=1536,
        rank=512,
        plain=128,
        rotated=64,
        value_dim=128,
        interleaved=config.flag("rope_interleave", True),
    )

    def layer(index: int) -> Layer:
        return pre_norm_layer(
            index, sizes, epsilon, latent_attention(index, latent), gated_mlp(index, sizes, activation)
        )

    ropes = {"default": latent_rope(config, latent, sizes.context)}
    return rms_decoder(config, "youtu", sizes, layer, ropes=ropes, epsilon=epsilon, tied=True)


ARCHITECTURE = Architecture(model_type="youtu", read=read, ignored_tensors=IGNORED_TENSORS)
