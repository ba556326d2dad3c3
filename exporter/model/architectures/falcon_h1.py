"""Falcon-H1 (TII 2025): attention and a state space beside each other in every layer, and multipliers everywhere."""

from dataclasses import dataclass, replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    layer_rms_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._mamba import (
    StateSpace,
    block,
    feed_forward,
    mamba2,
    read_state_space,
    with_final_norm,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

_FIVE = 5  # parts of what the state space's input projection gives: z, x, B, C and the step


@dataclass(frozen=True)
class _Multipliers:
    """What is multiplied, by which number; ``key`` is part of the scale of attention's scores."""

    attention_in: float
    attention_out: float
    key: float
    state_in: float
    state_out: float
    state_parts: tuple[float, ...]
    gate: float
    mlp_out: float


def read(config: Config) -> Decoder:
    """Defaults are transformers' FalconH1Config's."""
    sizes = read_sizes(
        config, vocab=128_000, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, context=8192
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    state_space, multipliers = _state_space(config, sizes), _multipliers(config)
    _check_inputs(config, multipliers, attention_bias=attention_bias, state_bias=state_space.input_bias)
    normed, norm_first = config.flag("mamba_rms_norm", False), config.flag("mamba_norm_before_gate", True)
    config.without_effect("num_logits_to_keep")
    parts = [part * multipliers.state_in for part in multipliers.state_parts]

    def layer(index: int) -> Layer:
        norm = layer_rms_norm(index, "norm", "input_layernorm", sizes, epsilon=epsilon)
        attention = separate_attention(
            index,
            sizes,
            scale=sizes.head_dim**-0.5 * multipliers.key * multipliers.attention_in**2,
            qkv_bias=attention_bias,
            output_bias=attention_bias,
        )
        state = mamba2(
            index,
            f"model.layers.{index}.mamba",
            sizes.hidden,
            state_space,
            epsilon=epsilon if normed else None,
            norm_before_gate=norm_first,
            multipliers=(parts[0], parts[1], parts[2], parts[3], parts[4]),
        )
        mlp = feed_forward(index, sizes, activation, bias=mlp_bias, gate_multiplier=multipliers.gate)
        return Layer(
            (
                Block(norm=norm, mixer=attention, multiplier=multipliers.attention_in * multipliers.attention_out),
                Block(norm=norm, mixer=state, multiplier=multipliers.state_out, beside=True),
                replace(block(index, sizes, epsilon, mlp, "pre_ff_layernorm"), multiplier=multipliers.mlp_out),
            )
        )

    decoder = rms_decoder(
        config,
        "falcon_h1",
        sizes,
        layer,
        ropes={"default": rope},
        epsilon=epsilon,
        tied=False,
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        logits_multiplier=config.number("lm_head_multiplier", 1.0),
    )
    return with_final_norm(decoder, "model.final_layernorm.weight")


def _state_space(config: Config, sizes: Sizes) -> StateSpace:
    """Of a width of its own, ``mamba_d_ssm``, and with a bias of its own at the output."""
    width = config.optional_integer("mamba_d_ssm", 1024)
    config.without_effect("mamba_expand")
    found = read_state_space(config, hidden=sizes.hidden, width=width)
    return replace(found, output_bias=config.flag("projectors_bias", False))


def _multipliers(config: Config) -> _Multipliers:
    gate, mlp_out = config.numbers("mlp_multipliers", 2) if config.has("mlp_multipliers") else (1.0, 1.0)
    parts = config.numbers("ssm_multipliers", _FIVE) if config.has("ssm_multipliers") else [1.0] * _FIVE
    config.without_effect("mlp_multipliers", "ssm_multipliers")
    return _Multipliers(
        attention_in=config.number("attention_in_multiplier", 1.0),
        attention_out=config.number("attention_out_multiplier", 1.0),
        key=config.number("key_multiplier", 1.0),
        state_in=config.number("ssm_in_multiplier", 1.0),
        state_out=config.number("ssm_out_multiplier", 1.0),
        state_parts=tuple(parts),
        gate=gate,
        mlp_out=mlp_out,
    )


def _check_inputs(config: Config, multipliers: _Multipliers, *, attention_bias: bool, state_bias: bool) -> None:
    """What multiplies the input of a projection is moved behind it, which a bias would not survive."""
    for key, value, bias, with_bias in (
        ("attention_in_multiplier", multipliers.attention_in, "attention_bias", attention_bias),
        ("ssm_in_multiplier", multipliers.state_in, "mamba_proj_bias", state_bias),
    ):
        if with_bias and value != 1.0:
            raise config.refuse(key, f"with {bias} = true only 1.0 is implemented")


ARCHITECTURE = Architecture(model_type="falcon_h1", read=read, ignored_tensors=IGNORED_TENSORS)
