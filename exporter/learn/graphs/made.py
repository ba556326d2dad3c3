"""Rows of codes that methods made, as the data file has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.packing import Quantized


@dataclass(frozen=True)
class MadeRows:
    """``codes`` of each weight by its name, and how near they are to it."""

    codes: Mapping[str, Codes]
    reports: Mapping[str, Mapping[str, Any]]

    def __contains__(self, name: object) -> bool:
        return name in self.codes

    def array(self, name: str, part: str) -> NDArray[Any]:
        """One array of a weight: ``values``, ``scales`` or ``zero_points``."""
        found: NDArray[Any] = getattr(self.weight(name), part)
        return found

    def weight(self, name: str) -> Quantized:
        """A weight as it is stored."""
        return self.codes[name].pack()
