"""Decide what happens to every tensor before any weight is read: its scheme or why it is kept, and where it goes."""

from dataclasses import dataclass, field

from edgepress.exporter.decoder import Weight
from edgepress.exporter.scheme import Scheme

ALIGNMENT = 4096  # bytes: the ONNX external-data recommendation, so that any region can be mapped on its own


@dataclass(frozen=True)
class Region:
    """A run of bytes in the bundle's data file."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class PlannedTensor:
    """One weight, how it is stored and where.

    ``regions`` has ``values`` (uint8 codes) and ``scales`` (float32) when there is a scheme, else ``data`` (float32).
    ``reason`` says why the tensor is kept in float32, or which recipe entry chose the scheme.
    """

    weight: Weight
    scheme: Scheme | None
    reason: str
    bytes_before: int
    regions: dict[str, Region] = field(default_factory=dict)

    @property
    def bytes_after(self) -> int:
        """Bytes in the bundle, alignment apart."""
        return sum(region.nbytes for region in self.regions.values())


@dataclass(frozen=True)
class Plan:
    """What will be done to each tensor, in the order in which the data file holds them."""

    tensors: tuple[PlannedTensor, ...]
    data_bytes: int

    def of(self, weight: Weight) -> PlannedTensor:
        """Return the planned tensor of ``weight`` (KeyError when the plan has none)."""
        return self._by_name[weight.name]

    @property
    def _by_name(self) -> dict[str, PlannedTensor]:
        return {tensor.weight.name: tensor for tensor in self.tensors}
