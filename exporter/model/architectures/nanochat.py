"""nanochat (Karpathy 2025): RMS norms without gains, of the embedding too, squared ReLU, rotation the other way."""

from dataclasses import replace
from functools import partial

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    assembled,
    norm_without_gain,
    plain_mlp,
    read_activation,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.parts.primitives import Norm
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' NanoChatConfig's.

    Its rotary embedding turns by −θ, which is what negative frequencies are. It norms q and k after that; without gains
    it is the same before, as a rotation keeps the sum of squares.
    """
    sizes = read_sizes(
        config, vocab=50304, hidden=768, intermediate=8192, layers=12, heads=6, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "relu2")
    bias = config.flag("attention_bias", False)
    norm = partial(norm_without_gain, size=sizes.hidden, epsilon=epsilon, kind="rms")

    def layer(index: int) -> Layer:
        norms = _query_and_key_norm(index, sizes, epsilon)
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, norms=norms)
        tensors = f"model.layers.{index}.mlp"
        mlp = plain_mlp(index, sizes, activation, tensors, up="fc1", down="fc2", bias=False)
        return Layer(
            (
                Block(norm=norm(f"layers.{index}.attention_norm"), mixer=attention),
                Block(norm=norm(f"layers.{index}.mlp_norm"), mixer=mlp),
            )
        )

    decoder = assembled(
        config,
        "nanochat",
        sizes,
        layer,
        final_norm=norm("final_norm"),
        ropes={"default": replace(rope, inverse_frequencies=tuple(-f for f in rope.inverse_frequencies))},
        tied=False,
        logits_softcap=config.optional_number("final_logit_softcapping", 15.0, above=0.0) or 0.0,
    )
    return replace(decoder, embedding_norm=norm("embedding_norm"))


def _query_and_key_norm(index: int, sizes: Sizes, epsilon: float) -> tuple[Norm, Norm]:
    name = f"layers.{index}.attention"
    return (
        norm_without_gain(f"{name}.query_norm", sizes.head_dim, epsilon, "rms"),
        norm_without_gain(f"{name}.key_norm", sizes.head_dim, epsilon, "rms"),
    )


ARCHITECTURE = Architecture(model_type="nanochat", read=read, ignored_tensors=IGNORED_TENSORS)
