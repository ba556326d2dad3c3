"""Which products of a graph read which channels, and what they multiply by, while it is computed in torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.network import Network, Step
from edgepress.exporter.methods.narrower.coupling import Coupling, Site

DATA_AXIS: Mapping[str, int] = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
"""The axis of channels in what these operators multiply by their weight."""

_PLAIN: Mapping[str, object] = {"alpha": 1.0, "beta": 1.0, "transA": 0, "group": 1, "auto_pad": "NOTSET"}
_WEIGHT = 1  # the input of these operators that is the weight


class Reads:
    """Where products read channels: by weight, the axis of the weight, and of what it is multiplied with."""

    def __init__(self, coupling: Coupling) -> None:
        self._sites = {site.tensor: site for group in coupling.groups for site in group.sites if site.reads}
        self._coupling = coupling

    def site(self, step: Step, index: int) -> Site | None:
        """The site that a node's first input goes into."""
        if index != 0 or step.key not in DATA_AXIS or len(step.inputs) < 2 or step.attributes.get("transA"):
            return None
        return self._sites.get(step.inputs[_WEIGHT])

    def channels(self, site: Site) -> NDArray[np.int64]:
        """The channel at each place along the site."""
        labels = self._coupling.tensors[site.tensor][site.axis]
        assert labels is not None  # a site has labels
        return self._coupling.channel_of[labels]


def constant_weight(step: Step, network: Network) -> Tensor | None:
    """The constant that a product reads, of two or, of a convolution, four axes.

    None where it is no such product, or its places are not known: convolutions in groups, transposed or in one
    dimension, Gemm with factors.
    """
    weight = network.constants.get(step.inputs[1]) if step.key in ("Conv", "Gemm", "MatMul") else None
    if weight is None or weight.dtype != torch.float32 or weight.dim() != (4 if step.key == "Conv" else 2):
        return None
    return weight if all(step.call.get(name, value) == value for name, value in _PLAIN.items()) else None


def rows_first(step: Step) -> bool:
    """Whether the weight is (out, in, …)."""
    return step.key == "Conv" or bool(step.call.get("transB", 0))


def numbers(step: Step, weight: Tensor) -> int:
    """How many numbers a product sees at each place."""
    return weight[0].numel() if rows_first(step) else len(weight)


def what_it_sees(step: Step, x: Tensor, weight: Tensor) -> Tensor:
    """What a product sees at each place, (numbers, places)."""
    if step.key != "Conv":
        return x.movedim(-1, 0).flatten(1)
    kernel = tuple(weight.shape[2:])
    pads = [int(pad) for pad in step.call.get("pads", [0] * 4)]
    strides, dilations = (step.call.get(name, [1, 1]) for name in ("strides", "dilations"))
    around = functional.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    return functional.unfold(around, kernel, dilation=dilations, stride=strides).movedim(1, 0).flatten(1)
