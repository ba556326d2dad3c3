"""Products told to read from the channels that stay what those that go would have brought (He et al. 2017, eq. 5).

What goes is predicted from what stays, x_gone ≈ A · x_kept by least squares over samples and places, and the product's
weights take the prediction over: W_kept + W_gone · A. A convolution predicts from all that its kernel sees; where that
is too much to solve for, each of the kernel's places from the channels there, all places alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.network import Feed, Hooks, Network, Step
from edgepress.exporter.methods.narrower.coupling import Coupling, Site
from edgepress.exporter.methods.narrower.reads import DATA_AXIS, Reads

_DAMPING = 1e-4  # of the mean square of what stays
_MOST = 2304  # numbers that a kernel sees, up to which they are all predicted from


def mend(model: onnx.ModelProto, coupling: Coupling, kept: NDArray[np.bool_], samples: Iterable[Feed]) -> int:
    """Change, in ``model`` of its full size, the weights that read channels which go; how many products were changed.

    A convolution in groups stays as it is: its groups see different channels.
    """
    moments = _moments(model, coupling, kept, samples)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for site, moment in moments.items():
        stays = kept[Reads(coupling).channels(site)]
        tensor = tensors[site.tensor]
        weight = np.moveaxis(numpy_helper.to_array(tensor), site.axis, -1).astype(np.float64)
        by_kernel = len(moment) != len(stays)
        if by_kernel:  # (out, height, width, channels) → (out, channels · height · width), as the moment has them
            places = weight.shape[1:-1]
            weight = np.moveaxis(weight, -1, 1)
            stays = np.repeat(stays, math.prod(places))
        flat = weight.reshape(-1, len(stays))
        inside = moment[np.ix_(stays, stays)]
        inside = inside + np.eye(len(inside)) * (_DAMPING * np.trace(inside) / len(inside) + 1e-12)
        prediction = np.linalg.solve(inside, moment[np.ix_(stays, ~stays)])  # (kept, gone)
        flat[:, stays] += flat[:, ~stays] @ prediction.T
        new = np.moveaxis(flat.reshape(weight.shape), 1 if by_kernel else -1, site.axis).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), tensor.name))
    return len(moments)


def _moments(
    model: onnx.ModelProto, coupling: Coupling, kept: NDArray[np.bool_], samples: Iterable[Feed]
) -> dict[Site, NDArray[np.float64]]:
    """Of each product that reads channels which go, the mean of x xᵀ over samples and places, (numbers, numbers)."""
    network, reads = Network(model), Reads(coupling)
    total: dict[Site, Tensor] = {}
    count: dict[Site, int] = {}

    def read(step: Step, index: int, value: Tensor) -> Tensor:
        site = reads.site(step, index)
        if site is not None and not kept[reads.channels(site)].all():
            x = _seen(step, value.detach(), network.constants[site.tensor])  # (numbers, places)
            if len(x) % len(reads.channels(site)) == 0 and step.attributes.get("group", 1) == 1:
                moment = (x @ x.T).double()
                total[site] = total[site] + moment if site in total else moment
                count[site] = count.get(site, 0) + x.shape[1]
        return value

    for _ in network.batches(samples, hooks=Hooks(read=read)):
        pass
    return {site: (moment / max(count[site], 1)).numpy() for site, moment in total.items()}


def _seen(step: Step, value: Tensor, weight: Tensor) -> Tensor:
    """What a product sees at each place: (channels · kernel, places), or (channels, places) where that is too much."""
    kernel = tuple(weight.shape[2:])
    pads = [int(pad) for pad in step.attributes.get("pads", [0] * 2 * len(kernel))]
    is_plain = step.key == "Conv" and len(kernel) == 2 and step.attributes.get("auto_pad", "NOTSET") == "NOTSET"
    if not is_plain or math.prod(kernel) == 1 or value.shape[1] * math.prod(kernel) > _MOST:
        return value.movedim(DATA_AXIS[step.key], 0).flatten(1)
    around = functional.pad(value, (pads[1], pads[3], pads[0], pads[2]))
    dilations, strides = (step.attributes.get(name, [1, 1]) for name in ("dilations", "strides"))
    seen = functional.unfold(around, kernel, dilation=dilations, stride=strides)  # (n, channels · kernel, places)
    return seen.movedim(1, 0).flatten(1)
