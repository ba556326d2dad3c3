"""A learned augmented residual layer (Menghani et al. 2025, LAuReL, section 2.2): a product of low rank.

``right(left(x))``; that x is added as well is the block's (:attr:`~.description.Block.adds_input`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import GraphWriter, MixerKind
from edgepress.exporter.model.parts.primitives import Linear, Source

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, Values


@dataclass(frozen=True, kw_only=True)
class Laurel(Mixer):
    """``right(left(x))``: (…, hidden) → (…, rank) → (…, hidden)."""

    left: Linear
    right: Linear

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.left,), (self.right,)

    def source(self) -> Source | str:
        """See :class:`Mixer`: all rows of ``left``."""
        return Source(self.left, slice(0, self.left.weight.shape[0]))


def steps(laurel: Laurel, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch."""
    from edgepress.exporter.model.operations import project

    (inner,) = yield from project((laurel.left,), values, x)
    (y,) = yield from project((laurel.right,), values, inner)
    return y


def write(laurel: Laurel, g: GraphWriter, _name: str, x: str, _states: Sequence[tuple[str, str]]) -> str:
    """``left(x)``."""
    return g.linear(laurel.left, x)


MIXER = MixerKind(Laurel, steps=steps, write=write)
