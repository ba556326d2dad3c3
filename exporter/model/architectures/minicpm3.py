"""MiniCPM3 (OpenBMB 2024): multi-head latent attention, and multipliers on embedding, residuals and logits."""

from collections.abc import Sequence

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
    """Defaults are transformers' MiniCPM3Config's."""
    sizes = latent_sizes(config, vocab=73_448, hidden=2560, intermediate=6400, layers=62, heads=40, context=32_768)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation, bias = read_activation(config, "hidden_act", "silu"), config.flag("mlp_bias", False)
    latent = read_latent(
        config,
        sizes,
        query_rank=768,
        rank=256,
        plain=64,
        rotated=32,
        value_dim=None,
        interleaved=False,
    )
    depth, base = _depth(config), config.optional_integer("dim_model_base")
    base = base if "dim_model_base" in config.values else 256  # null is no scale, as for the depth
    multiplier = 1.0 if depth is None else depth / sizes.layers**0.5

    def layer(index: int) -> Layer:
        attention, mlp = latent_attention(index, latent), gated_mlp(index, sizes, activation, bias=bias)
        return pre_norm_layer(index, sizes, epsilon, attention, mlp, residual_multiplier=multiplier)

    return rms_decoder(
        config,
        "minicpm3",
        sizes,
        layer,
        ropes={"default": latent_rope(config, latent, sizes.context)},
        epsilon=epsilon,
        tied=True,
        embedding_multiplier=config.number("scale_emb", 12.0),
        logits_multiplier=1.0 if base is None else base / sizes.hidden,
    )


def _depth(config: Config) -> float | None:
    """What the residual multiplier is multiplied by; it is that over the root of the number of layers."""
    given = config.optional_number("scale_depth")
    return given if "scale_depth" in config.values else 1.4


def without_layers(config: Config, layers: int, kept: Sequence[int]) -> dict[str, object]:
    """The same residual multiplier with fewer layers."""
    depth = _depth(config)
    return {} if depth is None else {"scale_depth": depth * (len(kept) / layers) ** 0.5}


ARCHITECTURE = Architecture(
    model_type="minicpm3",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    without_layers=without_layers,
    config_keys=("logits_scaling",),
)
