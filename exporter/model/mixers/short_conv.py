"""A gated short convolution, causal and depthwise, as LFM2 has it (Liquid AI 2025): ``output(C ∘ conv(B ∘ x))``.

It needs the last few inputs of the convolution and no cache that grows: a state of fixed size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgepress.bundle.states import State, StateType
from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import CONTRIB, GraphWriter, MixerKind, convolution_state
from edgepress.exporter.model.parts.primitives import Linear, Source, Weight

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, Values


@dataclass(frozen=True, kw_only=True)
class ShortConv(Mixer):
    """``output(C ∘ conv(B ∘ x))``, where B, C and x are ``inputs`` of the normed stream, ``channels`` rows each.

    ``kernel`` (channels, 1, taps) and ``bias`` (channels,): channel c of the convolution at position t is
    ``bias[c] + Σₖ kernel[c, 0, k] · (B ∘ x)[t − taps + 1 + k, c]``, zeros before the first token.
    """

    scaled_by_token: ClassVar[bool] = True
    no_static_form: ClassVar[str] = "a static call is padded to its length, and the padding would go into its state"
    inputs: Linear
    kernel: Weight
    bias: Weight | None = None
    output: Linear

    def __post_init__(self) -> None:
        if len(self.kernel.shape) != 3 or self.kernel.shape[1] != 1 or self.taps < 2:
            raise ValueError(f"{self.kernel.name} has shape {self.kernel.shape}, not (channels, 1, 2 taps or more)")

    @property
    def channels(self) -> int:
        """Channels of the convolution."""
        return self.kernel.shape[0]

    @property
    def taps(self) -> int:
        """How many tokens it sees, the present one included."""
        return self.kernel.shape[2]

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.inputs,), (self.output,)

    def states(self, layer: int, floats: StateType = "float32") -> tuple[State, ...]:  # noqa: ARG002
        """The last inputs of the convolution, (batch, taps − 1, channels): float32 alone has a kernel."""
        return (convolution_state(layer, self.taps, self.channels),)

    def source(self) -> Source | str:
        """The rows of C, a factor of what goes into the output projection."""
        return Source(self.inputs, slice(self.channels, 2 * self.channels))

    def sizes(self) -> None:
        """No config says how many channels it has, beside the hidden size."""
        return


def steps(conv: ShortConv, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch."""
    from torch.nn import functional

    from edgepress.exporter.model.operations import project

    (projected,) = yield from project((conv.inputs,), values, x)
    b, c, x = projected.chunk(3, dim=-1)  # (sequences, length, channels) each
    padded = functional.pad((b * x).transpose(1, 2), (conv.taps - 1, 0))
    bias = None if conv.bias is None else values(conv.bias)
    y = functional.conv1d(padded, values(conv.kernel), bias, groups=conv.channels)  # (sequences, channels, length)
    (y,) = yield from project((conv.output,), values, c * y.transpose(1, 2))
    return y


def write(conv: ShortConv, g: GraphWriter, name: str, x: str, states: Sequence[tuple[str, str]]) -> str:
    """Convolve with what is left of the last call, in float32 as its state is.

    ::

        x ─ inputs ─ Split ┬ B ─┬ Mul ┐
                           ├ x ─┘     ├ CausalConvWithState ┬ Mul ─
                           │ past_conv.{i} ┘                └ present_conv.{i}
                           └ C ──────────────────────────────┘

    All rows of a batch are taken to be equally long: a token that pads a row would go into its state.
    """
    ((past, present),) = states
    b, c, inner = (f"{name}.{part}" for part in ("b", "c", "x"))
    projected = g.linear(conv.inputs, x)
    sizes = g.constant(f"three_times_{conv.channels}", np.full(3, conv.channels, np.int64))
    g.node("Split", [projected, sizes], b, more_outputs=[c, inner], axis=-1)
    with g.in_half(False):
        gated = g.node("Mul", [b, inner], f"{name}.gated")
        bias = "" if conv.bias is None else g.weight(conv.bias)
        convolved = g.node(
            "CausalConvWithState",
            [gated, g.weight(conv.kernel), bias, past],
            f"{name}.convolved",
            domain=CONTRIB,
            more_outputs=[present],
            channels_last=1,
        )
        return g.node("Mul", [c, convolved], f"{name}.mixed")


MIXER = MixerKind(ShortConv, steps=steps, write=write)
