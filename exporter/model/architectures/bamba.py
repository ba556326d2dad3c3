"""Bamba (IBM, Princeton, CMU, UIUC 2024): Llama with a state space in the place of attention in most layers."""

from collections.abc import Sequence

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._mamba import (
    block,
    feed_forward,
    mamba2,
    read_state_space,
    with_final_norm,
)
from edgepress.exporter.model.description import Decoder, Layer, Mixer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

_ROTATED = 0.5  # of each head, whatever the config says outside its rope's section


def read(config: Config) -> Decoder:
    """Defaults are transformers' BambaConfig's."""
    sizes = read_sizes(
        config, vocab=128_000, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, context=262_144
    )
    attended = _attended(config)
    if config.optional_number("partial_rotary_factor", _ROTATED) not in (_ROTATED, None):
        raise config.refuse("partial_rotary_factor", f"transformers takes {_ROTATED} for it; remove the key")
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, partial=True, share=_ROTATED)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    state_space = read_state_space(config, hidden=sizes.hidden)
    config.without_effect("num_logits_to_keep", "z_loss_coefficient")

    def layer(index: int) -> Layer:
        mixer: Mixer = (
            separate_attention(index, sizes, qkv_bias=attention_bias, output_bias=attention_bias)
            if index in attended
            else mamba2(index, f"model.layers.{index}.mamba", sizes.hidden, state_space, epsilon=epsilon)
        )
        mlp = feed_forward(index, sizes, activation, bias=mlp_bias)
        return Layer(
            (
                block(index, sizes, epsilon, mixer, "input_layernorm"),
                block(index, sizes, epsilon, mlp, "pre_ff_layernorm"),
            )
        )

    decoder = rms_decoder(config, "bamba", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)
    return with_final_norm(decoder, "model.final_layernorm.weight")


def _attended(config: Config) -> list[int]:
    """The layers that have attention."""
    return config.optional_integers("attn_layer_indices", 0) or []


def without_layers(config: Config, _layers: int, kept: Sequence[int]) -> dict[str, object]:
    """The numbers that layers with attention have then."""
    attended = _attended(config)
    return {"attn_layer_indices": [number for number, index in enumerate(kept) if index in attended]}


ARCHITECTURE = Architecture(
    model_type="bamba",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    without_layers=without_layers,
    config_keys=("layers_block_type",),
)
