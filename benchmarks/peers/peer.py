"""What every tool is asked on the same checkpoint: a :class:`~edgepress.runtime.LogitsSource`, and what it stored."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime import LogitsSource


@dataclass(frozen=True)
class Peer:
    """A model as another tool stores it. ``types`` counts its weight matrices by how each is stored."""

    source: LogitsSource
    bits_per_weight: float
    types: Mapping[str, int]

    @property
    def note(self) -> str:
        """What the matrices are stored as, commonest first."""
        return ", ".join(f"{count} {name}" for name, count in Counter(self.types).most_common())


def parameters(checkpoint: Checkpoint) -> int:
    """Elements of all weights, tied ones once."""
    return sum(prod(weight.shape) for weight in read_decoder(checkpoint).weights())
