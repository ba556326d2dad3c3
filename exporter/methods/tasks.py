"""What a method works on: one layer, or the whole compressed model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder, Layer, layer_linears
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.streams.store import Store, StoredStages
from edgepress.terminal.progress import Progress, silent

Schemes = Mapping[str, Scheme | None]
"""The scheme of each weight, by its name; None where it is kept in float."""


@dataclass
class LayerTask:
    """One layer while it is compressed.

    ``weights`` has every weight of the layer in float32, with the transforms so far folded in; ``codes`` has those that
    are rounded so far, and ``repaired`` the others that a repair changed. ``few`` are the tokens that came to weights
    which were rounded to nearest because these were too few. ``inputs`` is the residual stream from the compressed
    layers before this one; ``reference_inputs`` that from the full-precision ones, and ``reference_outputs`` the output
    of this layer, in full precision, for it; both are kept only when a method needs them.
    """

    index: int
    layer: Layer
    schemes: Schemes
    rotaries: Mapping[str, operations.Rotary]
    weights: dict[str, Tensor]
    inputs: Activations
    reference_inputs: Activations | None
    reference_outputs: Activations | None
    device: torch.device
    codes: dict[str, Codes] = field(default_factory=dict)
    few: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, Tensor] = field(default_factory=dict)

    def scheme(self, weight: Weight) -> Scheme | None:
        """How ``weight`` will be stored; None when it is kept in float32."""
        return self.schemes[weight.name]

    def full(self, weight: Weight) -> Tensor:
        """``weight`` in full precision, transforms folded in."""
        return self.weights[weight.name]

    def values(self, weight: Weight) -> Tensor:
        """``weight`` as it will be stored, dequantized; in full precision when nothing changed it yet."""
        codes = self.codes.get(weight.name)
        return self.repaired.get(weight.name, self.weights[weight.name]) if codes is None else codes.dequantize()

    def linears(self) -> list[Linear]:
        """The layer's projections in the order in which they are computed."""
        return layer_linears(self.layer)

    def observe(self, values: operations.Values) -> dict[str, Moments]:
        """Run the layer on its inputs and collect the moments of each projection's inputs, by the weight's name."""
        moments: dict[str, Moments] = {}

        def tap(linears: tuple[Linear, ...], x: Tensor) -> Tensor:
            key = linears[0].weight.name
            if key not in moments:
                moments[key] = Moments(x.shape[-1], self.device)
            moments[key].add(x)
            for other in linears[1:]:
                moments[other.weight.name] = moments[key]
            return x

        for x in self.inputs:
            network.layer_forward(self.layer, values, x, self.rotaries, tap)
        return moments


@dataclass
class ModelTask:
    """The whole compressed model, for a method that repairs it end to end.

    ``stages`` gives each weight as it will be stored so far; ``put`` replaces one. ``tokens`` is the calibration text,
    (sequences, length), and ``teacher`` the inputs of the full-precision model's final norm for it; ``read`` gives a
    checkpoint weight in float32, without transforms, ``full`` the one that was rounded, with them; ``rounded``
    rounds rows of a weight that no stage has stored. ``progress`` makes the method's progress bar.
    """

    decoder: Decoder
    schemes: Schemes
    tokens: NDArray[np.int64]
    stages: StoredStages
    teacher: Activations
    read: Callable[[Weight], Tensor]
    full: Callable[[Weight], Tensor]
    rounded: Callable[[Weight, NDArray[np.float32], Scheme], Quantized]
    store: Store
    device: torch.device
    seed: int
    changed: dict[str, Quantized | NDArray[np.float32]] = field(default_factory=dict)
    progress: Progress = silent

    def put(self, weight: Weight, stored: Quantized | NDArray[np.float32]) -> None:
        """Replace ``weight`` as it will be stored."""
        self.changed[weight.name] = stored

    def stored(self, weight: Weight) -> Codes | Tensor:
        """``weight`` as it will be stored so far; without a stage for it, rounded from the checkpoint's rows."""
        scheme = self.schemes[weight.name]
        if weight.name in self.stages:
            found = self.stages.weight(weight.name)
            if isinstance(found, Quantized):
                if scheme is None:
                    raise ValueError(f"{weight.name} is stored in codes, and there is no scheme for it")
                return Codes.unpack(found, scheme, weight.shape[1]).to(self.device)
            return torch.from_numpy(found).to(self.device)
        full = self.read(weight)
        if scheme is None:
            return full
        return Codes.unpack(self.rounded(weight, full.cpu().numpy(), scheme), scheme, full.shape[1]).to(self.device)
