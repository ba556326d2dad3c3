"""What activations and weights of a QDQ model are integers of."""

from dataclasses import dataclass
from typing import Literal

from edgepress.errors import InputError
from edgepress.targets import Target


@dataclass(frozen=True)
class Widths:
    """Activations are unsigned integers with a zero point, weights signed ones without, one scale for each channel."""

    name: str
    activations: Literal["uint8", "uint16"]
    weights: Literal["int8", "int4"]

    @property
    def activation_bits(self) -> int:
        """8 or 16."""
        return 16 if self.activations == "uint16" else 8

    @property
    def weight_bits(self) -> int:
        """4 or 8."""
        return 4 if self.weights == "int4" else 8


_ALL = (Widths("a8w8", "uint8", "int8"), Widths("a16w8", "uint16", "int8"), Widths("a16w4", "uint16", "int4"))
WIDTHS = {widths.name: widths for widths in _ALL}


def find_widths(name: str, target: Target) -> Widths:
    """Return the widths called ``name``; InputError when there are none, or ``target`` does not take them.

    What a target takes is in its file, ``Target.qdq``. What no target takes cannot be written at all: blocks, negative
    scales and int4 zero points other than 0, which the HTP computes silently wrong.
    """
    if name not in WIDTHS:
        raise InputError(f"unknown widths {name!r}; known: {', '.join(WIDTHS)}")
    if name not in target.qdq:
        takes = f"it takes {', '.join(target.qdq)}" if target.qdq else "no QDQ model is known to run there"
        raise InputError(f"{target.name} does not take {name}; {takes}")
    return WIDTHS[name]
