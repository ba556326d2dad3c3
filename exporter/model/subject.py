"""What the plan, the stream of weights and the bundle need of a model, whatever kind of model it is.

A language model satisfies it with its :class:`~edgepress.exporter.model.description.Decoder` and checkpoint, a model of
any other with what :mod:`edgepress.exporter.graph.foreign` reads of its float graph.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import State
from edgepress.exporter.model.description import Layer, Rotation
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.source.packed import Codes, Grid
from edgepress.exporter.source.part import Part


class Description(Protocol):
    """What a model is made of, before any weight is read.

    ``context_length`` is how many positions it has, 0 for a model without; ``layers`` are those of a decoder, ``tied``
    says that one of its tables is used twice, ``rotation`` what is put into its residual stream.
    """

    @property
    def model_type(self) -> str:
        """What manifests call the kind of model."""

    @property
    def context_length(self) -> int:
        """Positions that it has."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers whose blocks calibration can walk through."""

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one weight."""

    @property
    def rotation(self) -> Rotation | None:
        """A rotation of the residual stream."""

    @property
    def long_from(self) -> int | None:
        """The total length from which other frequencies are used."""

    def weights(self) -> list[Weight]:
        """Every weight that is stored, once, with its role, in the order in which it is stored."""

    def states(self) -> tuple[State, ...]:
        """What the graph carries from one call to the next."""


class WeightSource(Protocol):
    """Where the weights of a model are read."""

    def part_rows(self, part: Part, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop``, counted within ``part``: (stop − start, columns) or (stop − start,)."""

    def part_codes(self, part: Part, start: int, stop: int) -> tuple[Grid, Codes]:
        """Rows ``start`` to ``stop``, counted within ``part``, as the integers that are stored for them."""

    def part_order(self, part: Part) -> NDArray[np.int32] | None:
        """Which column each of these integers' columns is, (columns,); None where they are in their places."""

    def by_columns(self, part: Part) -> bool:
        """Whether rows of ``part`` lie scattered over its tensor, so that many should be read at a time."""

    def itemsize(self, name: str) -> float:
        """Bytes of an element of the stored tensor ``name``, on average."""

    def source_hashes(self) -> dict[str, str]:
        """SHA-256 of each file that the model is made of, by name."""
