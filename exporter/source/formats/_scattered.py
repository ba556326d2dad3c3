"""Weights whose columns may have groups in any order: GPTQ's act-order, which compressed-tensors has too.

A tensor names the group of each column. Where groups are of one size, columns put by their groups are in blocks, and
:meth:`Scattered.order` says which they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.packed import Codes, Floats, Grid, GridTensor, elements, wrong
from edgepress.exporter.source.stored import StoredTensor

_UNEVEN = "its groups are not of one size, and blocks are"


@dataclass(frozen=True, kw_only=True)
class Scattered(GridTensor):
    """A weight (rows, columns) whose ``index`` is the group of each column, int32 (columns,).

    Without one neighbours share a group. A format says with :meth:`stored_codes` what is stored, columns in their
    places.
    """

    index: StoredTensor | None = field(default=None, repr=False)
    groups: int  # how many there are

    def stored_codes(self, start: int, stop: int) -> Codes:
        """Rows with their columns in their places, and the groups as they are stored."""
        raise NotImplementedError

    @cached_property
    def _scattered(self) -> NDArray[np.int64] | None:
        """The group of each column, None where ``group`` neighbours each have one."""
        if self.index is None:
            return None
        found = elements(self.index, 0, self.shape[1], "<i4").astype(np.int64)
        found = np.where(found < 0, found + self.groups, found)
        if found.min() < 0 or found.max() >= self.groups:
            names = f"it names groups from {found.min()} to {found.max()}"
            raise wrong(self.index, f"{names}, and {self.groups} have scales")
        return None if np.array_equal(found, self._by_size) else found

    @property
    def _by_size(self) -> NDArray[np.int64]:
        """The group of each column where columns are by their groups."""
        return np.arange(self.shape[1]) // (self.group or self.shape[1])

    def grid(self) -> Grid | str:
        """A reason where columns of a group are not neighbours, and groups are not of one size either."""
        if self._scattered is not None and not np.array_equal(np.sort(self._scattered), self._by_size):
            return _UNEVEN
        return super().grid()

    def order(self) -> NDArray[np.int32] | None:
        """Columns by their groups, and as they were within one."""
        return None if self._scattered is None else np.argsort(self._scattered, kind="stable").astype(np.int32)

    def codes(self, start: int, stop: int) -> Codes:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`."""
        found, order = self.stored_codes(start, stop), self.order()
        return found if order is None else Codes(found.values[:, order], found.scales, found.zero_points)

    def rows(self, start: int, stop: int) -> Floats:
        """Rows as float32; scattered groups are gathered column by column."""
        groups, codes = self._scattered, self.stored_codes(start, stop)
        grid = Grid(self.bits, self.group, symmetric=False)
        if groups is None:
            return codes.dequantize(grid)
        steps = codes.values.astype(np.float32)
        steps -= np.float32(grid.middle) if codes.zero_points is None else codes.zero_points[:, groups]
        steps *= codes.scales[:, groups]
        return steps
