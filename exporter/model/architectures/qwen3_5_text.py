"""Qwen3.5's text model (Qwen Team 2026): the gated delta rule in most layers, attention with a gate in some."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, gated_mlp, read_activation, read_sizes
from edgepress.exporter.model.architectures._gated_delta import (
    by_layer,
    mtp_layer,
    qwen_decoder,
    read_delta_sizes,
    separate_delta,
)
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.mixers.gated_delta import GatedDelta
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Qwen3_5TextConfig's."""
    sizes = read_sizes(
        config,
        vocab=248_320,
        hidden=4096,
        intermediate=12_288,
        layers=32,
        heads=16,
        kv_heads=4,
        head_dim=256,
        context=32_768,
    )
    delta = read_delta_sizes(config, key_heads=16, value_heads=32, key_dim=128, value_dim=128)
    activation = read_activation(config, "hidden_act", "silu")
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    config.without_effect("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")  # of what predicts a token further
    config.without_effect("mamba_ssm_dtype", "mlp_only_layers")  # float32 is what states have; there are no experts

    def mixer(index: int) -> GatedDelta:
        return separate_delta(index, sizes.hidden, delta, epsilon)

    return qwen_decoder(config, "qwen3_5_text", sizes, mixer, lambda index: gated_mlp(index, sizes, activation))


ARCHITECTURE = Architecture(
    model_type="qwen3_5_text",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, r"mtp\..*"),
    by_layer=by_layer,
    mtp=mtp_layer,
)
