"""Mixers: one file for each kind says everything about it; its name is the kind's.

A file has the description of its kind, a frozen dataclass of weights and sizes that is a
:class:`~edgepress.exporter.model.description.Mixer`; its steps in torch, which calibration runs; its subgraph; and ends
in a constant, ``MIXER``. Only the architectures that have a kind name it, and the methods that are about it.

What writes the graph stands above this folder. A mixer asks for what it needs by the protocol :class:`GraphWriter`, so
that its subgraph can stand beside its description. torch is imported by the steps alone: a plan needs none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import State
from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.parts.primitives import Alibi, Linear, Norm, Weight
from edgepress.modules import modules_in

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, StepsWithSide, Values

M = TypeVar("M", bound=Mixer)
CONTRIB = "com.microsoft"  # onnxruntime's own operators


class Stacked(NamedTuple):
    """Projections of one shape as one input of a node: ``weights`` (count, rows, …), ``bias`` (count, rows) or "".

    With ``bits`` below 32 weights are codes, and ``scales`` and ``zero_points`` (or "") are those of their blocks.
    """

    weights: str
    bias: str
    bits: int = 32
    block_size: int = 0
    scales: str = ""
    zero_points: str = ""


class Writer(Protocol):
    """What products and norms are written with; every method returns the name of a value."""

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        *,
        domain: str = "",
        more_outputs: Sequence[str] = (),
        **attributes: int | float | str | list[int],
    ) -> str:
        """One node; an empty name is an input or output left out."""
        ...

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """A small constant inside the model file; the same name again is the same constant."""
        ...

    def weight(self, weight: Weight) -> str:
        """A weight that is not rounded, in its shape."""
        ...

    def linear(self, linear: Linear, x: str, *, normed: bool = True) -> str:
        """A projection as the plan stores it; ``normed`` says that tokens of x are alike in size."""
        ...

    def norm(self, norm: Norm | None, x: str, name: str, *, rows: int = 1) -> str:
        """``x`` normalized over its last axis; with ``rows``, (…, rows, width), each has a gain and bias of its own."""
        ...


class GraphWriter(Writer, Protocol):
    """What a subgraph is written with; every method returns the name of a value.

    Values of every graph: ``attention_mask`` (batch, total) and what follows from it, ``seqlens_k`` (batch,) int32, the
    entries of a row less one, and ``total_length`` () int32.
    """

    def stack(self, linears: Sequence[Linear]) -> Stacked:
        """Projections that the plan has laid one after the other (:class:`Stack`), as one tensor."""
        ...

    @property
    def accuracy_level(self) -> int:
        """That of products with weights in codes: 4 lets them round activations to 8 bits."""
        ...

    def rotary(self, rope: str) -> tuple[str, str, str]:
        """Cos and sin of a call's positions, (rows, rotated / 2), and the row of each token, (batch, sequence)."""
        ...

    def rotated_dimensions(self, rope: str) -> int:
        """How many dimensions of a head the tables rotate."""
        ...

    def query_factors(self, rope: str) -> str:
        """What queries are multiplied by beside their rotation, (batch, sequence, 1); empty where nothing does."""
        ...

    def rotates_neighbours(self, rope: str) -> bool:
        """Whether the pairs that it rotates are neighbours, rather than of the two halves."""
        ...

    def alibi(self, alibi: Alibi) -> str:
        """What ALiBi adds to scores, (1, heads, sequence, total)."""
        ...

    def per_layer(self, first: int, width: int) -> str:
        """``width`` columns, from ``first`` on, of what the decoder's :class:`PerLayer` gives."""
        ...

    def keeps_window(self, state: str) -> bool:
        """Whether the state that this input is keeps the tokens of a window alone."""
        ...

    def in_half(self, active: bool) -> AbstractContextManager[None]:
        """Whether nodes added in the block may compute in float16."""
        ...

    def in_type_of(self, value: str) -> AbstractContextManager[None]:
        """Nodes added in the block compute in the float type that ``value`` has."""
        ...


@dataclass(frozen=True)
class MixerKind(Generic[M]):
    """One kind of mixer.

    ``steps(mixer, values, x, ropes)`` computes it on the normed residual stream, (sequences, length, hidden), a step at
    a time. ``write(mixer, graph, name, x, states)`` writes its subgraph up to what goes into the output projection, or
    to the mixer's output where it :attr:`Mixer.ends_in_sum`; ``states`` are the values of :meth:`Mixer.states` before
    a call, and the names that those after it are given.

    One that reads or writes columns beside the stream (:attr:`Mixer.side`) has ``steps_with_side`` in the place of
    ``steps``: it gets them, (sequences, length, side), and returns them with its output.
    """

    description: type[M]
    steps: Callable[[M, Values, Tensor, Mapping[str, Rotary]], Steps]
    write: Callable[[M, GraphWriter, str, str, Sequence[tuple[str, str]]], str]
    steps_with_side: Callable[[M, Values, Tensor, Mapping[str, Rotary], Tensor], StepsWithSide] | None = None


def convolution_state(layer: int, taps: int, channels: int) -> State:
    """The last inputs of a causal convolution, in float32: its operator has no other type."""
    return State(
        name=f"layers.{layer}.conv",
        input=f"past_conv.{layer}",
        output=f"present_conv.{layer}",
        shape=("batch", taps - 1, channels),
        type="float32",
        kind="convolution",
    )


def recurrent_state(layer: int, heads: int, key_dim: int, value_dim: int) -> State:
    """The matrix of each head of a linear recurrence, in float32: its operator has no other type."""
    return State(
        name=f"layers.{layer}.recurrent",
        input=f"past_recurrent.{layer}",
        output=f"present_recurrent.{layer}",
        shape=("batch", heads, key_dim, value_dim),
        type="float32",
        kind="recurrent",
    )


def mixer_names() -> list[str]:
    """Every kind there is a file for, sorted."""
    return sorted(module.name for module in modules_in(__path__))


@cache
def load_mixer(name: str) -> MixerKind[Any]:
    """The kind named ``name``: what is wrong inside its file is raised as it is."""
    found = importlib.import_module(f"{__name__}.{name}").MIXER
    assert isinstance(found, MixerKind)
    return found
