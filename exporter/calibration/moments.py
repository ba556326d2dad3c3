"""What goes into a projection, summed up over the calibration text."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Moments:
    """Sums over the rows x (columns,) that went into a projection.

    ``second`` is Σ x xᵀ (columns, columns), ``total`` Σ x, ``largest`` max |x|, ``count`` the rows.
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu") -> None:
        self.second = torch.zeros(columns, columns, device=device)
        self.total = torch.zeros(columns, device=device)
        self.largest = torch.zeros(columns, device=device)
        self.count = 0

    def add(self, x: Tensor) -> None:
        """Add the rows of x (…, columns)."""
        rows = x.detach().reshape(-1, x.shape[-1])
        if rows.device.type == "cpu":  # numpy notices that both factors are one array, and computes one triangle only
            array = rows.numpy()
            with np.errstate(over="ignore", invalid="ignore"):  # the engine says what is not finite
                self.second += torch.from_numpy(np.dot(array.T, array))
        else:
            self.second += rows.T @ rows
        self.total += rows.sum(0)
        torch.maximum(self.largest, torch.maximum(rows.amax(0), -rows.amin(0)), out=self.largest)
        self.count += len(rows)

    @property
    def hessian(self) -> Tensor:
        """2 E[x xᵀ], float32 (columns, columns): the Hessian of the mean squared output error in one row of weights."""
        return self.second * (2 / self.count)

    @property
    def mean(self) -> Tensor:
        """E[x], float32 (columns,)."""
        return self.total / self.count

    @property
    def mean_square(self) -> Tensor:
        """E[x²], float32 (columns,)."""
        return self.second.diagonal() / self.count
