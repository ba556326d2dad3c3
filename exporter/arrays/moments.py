"""What goes into a projection, summed up over the calibration text."""

from __future__ import annotations

import torch
from torch import Tensor

from edgepress.exporter.arrays.parallel import each, pieces

_STRIP = (
    512  # rows of Σ x xᵀ summed at a time, from the diagonal to the right: narrower ones leave out more of the rest
)


class Moments:
    """Sums over the rows x (columns,) that went into a projection.

    ``second`` is Σ x xᵀ (columns, columns), ``total`` Σ x, ``largest`` max |x|, ``count`` the rows.
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu") -> None:
        self._second = torch.zeros(columns, columns, device=device)  # left of the diagonal's blocks: see `second`
        self._is_whole = True
        self.total = torch.zeros(columns, device=device)
        self.largest = torch.zeros(columns, device=device)
        self.count = 0

    def add(self, x: Tensor) -> None:
        """Add the rows of x (…, columns)."""
        rows = x.detach().reshape(-1, x.shape[-1])
        if not len(rows):  # of an expert that no token of a batch went to
            return

        def add_strip(strip: slice) -> None:
            self._second[strip, strip.start :].addmm_(rows[:, strip].T, rows[:, strip.start :])

        each(add_strip, pieces(rows.shape[1], _STRIP), rows.device)
        self._is_whole = False
        self.total += rows.sum(0)
        torch.maximum(self.largest, torch.maximum(rows.amax(0), -rows.amin(0)), out=self.largest)
        self.count += len(rows)

    @property
    def second(self) -> Tensor:
        """Σ x xᵀ, float32 (columns, columns)."""

        def mirror(strip: slice) -> None:
            self._second[strip.stop :, strip] = self._second[strip, strip.stop :].T

        if not self._is_whole:
            each(mirror, pieces(len(self._second), _STRIP), self._second.device)
            self._is_whole = True
        return self._second

    @property
    def mean(self) -> Tensor:
        """E[x], float32 (columns,)."""
        return self.total / max(self.count, 1)

    @property
    def mean_square(self) -> Tensor:
        """E[x²], float32 (columns,)."""
        return self._second.diagonal() / max(self.count, 1)
