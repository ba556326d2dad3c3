"""Weights that methods made, as the data file has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.packing import Quantized


@dataclass(frozen=True)
class MadeRows:
    """``codes`` of each weight by its name, and how near they are to it; ``floats`` of those that are kept."""

    codes: Mapping[str, Codes]
    reports: Mapping[str, Mapping[str, Any]]
    floats: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.codes or name in self.floats

    def array(self, name: str, part: str) -> NDArray[Any]:
        """One array of a weight: ``values``, ``scales`` or ``zero_points``, or ``data`` of one that is kept."""
        found = self.weight(name)
        array: NDArray[Any] = getattr(found, part) if isinstance(found, Quantized) else found
        return array

    def weight(self, name: str) -> Quantized | NDArray[np.float32]:
        """A weight as it is stored."""
        return self.floats[name] if name in self.floats else self.codes[name].pack()
