"""Moonshine (Jeffries et al. 2024): three convolutions over the samples themselves, rotary embedding, no positions."""

from edgepress.exporter.model.architectures._common import layer_norm, linear, matrix, read_activation
from edgepress.exporter.model.encoder_decoders.description import (
    Convolution,
    CrossAttention,
    EncoderDecoder,
    SelfAttention,
    Stack,
    Step,
)
from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families._common import (
    Heads,
    Names,
    cross_attention,
    first_of,
    self_attention,
)
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear, Norm, Weight
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_EPSILON = 1e-5
_EMBEDDING = "model.decoder.embed_tokens.weight"
_HEAD = "proj_out.weight"


def read(config: Config, checkpoint: Checkpoint) -> EncoderDecoder:
    """Defaults are transformers' MoonshineConfig's."""
    hidden, vocab = config.integer("hidden_size", 288), config.integer("vocab_size", 32768)
    width, context = config.integer("intermediate_size", 1152), config.integer("max_position_embeddings", 512)
    bias = config.flag("attention_bias", False)
    names = Names(output="o_proj", biases=(bias, bias, bias, False))
    config.without_effect("pad_head_dim_to_multiple_of", "tie_word_embeddings")
    sides = {side: _heads(config, side, hidden) for side in ("encoder", "decoder")}
    rope = read_rope(
        config, head_dim=sides["decoder"].head_dim, context_length=context, partial=True, share=0.9, interleaved=True
    )

    def stack(side: str) -> Stack:
        sizes, is_encoder = sides[side], side == "encoder"
        activation = read_activation(config, f"{side}_hidden_act", "gelu" if is_encoder else "silu")
        prefix = "encoder." if is_encoder else ""

        def layer(index: int) -> tuple[Step, ...]:
            tensors, name = f"model.{side}.layers.{index}", f"{prefix}layers.{index}"
            own = self_attention(f"{name}.attention", f"{tensors}.self_attn", names, sizes, rope=rope)
            mixers: list[tuple[str, str, SelfAttention | CrossAttention | MLP]] = [
                ("attention", "input_layernorm", own)
            ]
            last = "post_attention_layernorm"
            if not is_encoder:
                other = cross_attention(f"{name}.cross_attention", f"{tensors}.encoder_attn", names, sizes)
                mixers.append(("cross_attention", last, other))
                last = "final_layernorm"
            up, gate = _first(f"{name}.mlp", f"{tensors}.mlp.fc1", width, hidden, gated=not is_encoder)
            down = linear(f"{name}.mlp.down", f"{tensors}.mlp.fc2", hidden, width, bias=True)
            mixers.append(("mlp", last, MLP(gate=gate, up=up, down=down, activation=activation)))
            return tuple(
                Step(mixer=mixer, before=_norm(f"{name}.{role}_norm", f"{tensors}.{tensor}", hidden))
                for role, tensor, mixer in mixers
            )

        last = "layer_norm" if is_encoder else "norm"
        return Stack(
            layers=tuple(layer(index) for index in range(config.integer(f"{side}_num_hidden_layers", 6))),
            last_norm=_norm(f"{side}.last_norm", f"model.{side}.{last}", hidden),
        )

    embedding = matrix("embedding", "embedding", first_of(checkpoint, _EMBEDDING, _HEAD), vocab, hidden)
    return EncoderDecoder(
        model_type="moonshine",
        hidden_size=hidden,
        vocab_size=vocab,
        context_length=context,
        source="wave",
        source_length=0,
        convolutions=_convolutions(hidden),
        encoder=stack("encoder"),
        embedding=embedding,
        decoder=stack("decoder"),
        head=Linear(embedding),
    )


def _heads(config: Config, side: str, hidden: int) -> Heads:
    sizes = Heads.of(config, f"{side}_num_attention_heads", hidden, 8)
    key = f"{side}_num_key_value_heads"
    if (config.optional_integer(key) or sizes.heads) != sizes.heads:
        raise config.refuse(key, f"fewer than the {sizes.heads} heads are not implemented for this family")
    return sizes


def _norm(name: str, tensor: str, hidden: int) -> Norm:
    return layer_norm(name, tensor, hidden, _EPSILON, bias=False)


def _first(name: str, tensor: str, width: int, hidden: int, *, gated: bool) -> tuple[Linear, Linear | None]:
    """``fc1`` as up, and of the decoder as up and gate: the first and the second half of its rows."""

    def half(role: str, number: int) -> Linear:
        start, stop = number * width, (number + 1) * width
        return Linear(
            Weight(f"{name}.{role}", "linear", (width, hidden), (Part(f"{tensor}.weight", start, stop),)),
            Weight(f"{name}.{role}.bias", "bias", (width,), (Part(f"{tensor}.bias", start, stop),)),
        )

    return half("up", 0), half("gate", 1) if gated else None


def _convolutions(hidden: int) -> tuple[Convolution, ...]:
    """384 samples become one position: strides of 64, 3 and 2."""
    norm = layer_norm("encoder.convolution.norm", "model.encoder.groupnorm", hidden, _EPSILON)
    shapes = ((1, hidden, 127, 64), (hidden, 2 * hidden, 7, 3), (2 * hidden, hidden, 3, 2))
    found = []
    for number, (before, after, taps, stride) in enumerate(shapes, 1):
        tensor, name = f"model.encoder.conv{number}", f"encoder.convolution.{number}"
        bias = Weight(f"{name}.bias", "bias", (after,), (Part(f"{tensor}.bias", 0, after),))
        found.append(
            Convolution(
                kernel=Weight(name, "kernel", (after, before, taps), (Part(f"{tensor}.weight", 0, after),)),
                bias=None if number == 1 else bias,
                stride=stride,
                padding=0,
                activation="tanh" if number == 1 else "gelu",
                norm=norm if number == 1 else None,
            )
        )
    return tuple(found)


FAMILY = Family("moonshine", "automatic-speech-recognition", read, (r"proj_out\.weight",))
