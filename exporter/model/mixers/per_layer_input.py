"""What a layer gets of a token beside the residual stream, gated by it: ``output(gelu(gate(x)) · input)``.

Gemma 3n (Google 2025). The inputs of all layers are rows of one table and a projection of what is embedded
(:class:`~edgepress.exporter.model.description.PerLayer`): a table larger than the model, of which a call reads the rows
of its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import GraphWriter, MixerKind
from edgepress.exporter.model.parts.primitives import Linear, Source

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, StepsWithSide, Values


@dataclass(frozen=True, kw_only=True)
class PerLayerInput(Mixer):
    """``output(gelu(gate(x)) · input)``, gelu by its tanh formula.

    The input stands beside the stream, from column ``first`` on.
    """

    scaled_by_token: ClassVar[bool] = True
    no_static_form: ClassVar[str] = "a table of the model's size would be a constant of the graph"
    gate: Linear
    output: Linear
    first: int

    @property
    def width(self) -> int:
        """Columns of the input."""
        return self.gate.weight.shape[0]

    @property
    def side(self) -> int:
        """See :class:`Mixer`."""
        return self.first + self.width

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.gate,), (self.output,)

    def source(self) -> Source | str:
        """Its factor is the layer's input, which all layers have one table of."""
        return "gelu before it does not pass a scale on"

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return (self.first,)


def steps(mixer: PerLayerInput, _values: Values, _x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """There is nothing to gate without what is beside the stream."""
    raise NotImplementedError(f"columns from {mixer.first} on are beside the stream")


def steps_with_side(
    mixer: PerLayerInput, values: Values, x: Tensor, _ropes: Mapping[str, Rotary], side: Tensor
) -> StepsWithSide:
    """The steps in torch."""
    from torch.nn.functional import gelu

    from edgepress.exporter.model.operations import project

    (gate,) = yield from project((mixer.gate,), values, x)
    mixed = gelu(gate, approximate="tanh") * side[..., mixer.first : mixer.side]
    (y,) = yield from project((mixer.output,), values, mixed)
    return y, side


def write(mixer: PerLayerInput, g: GraphWriter, name: str, x: str, _states: Sequence[tuple[str, str]]) -> str:
    """``gelu(gate) · input``."""
    gate = g.node("Gelu", [g.linear(mixer.gate, x, normed=False)], f"{name}.act", approximate="tanh")
    return g.node("Mul", [gate, g.per_layer(mixer.first, mixer.width)], f"{name}.mixed")


MIXER = MixerKind(PerLayerInput, steps=steps, write=write, steps_with_side=steps_with_side)
