"""Products told to read from the channels that stay what those that go would have brought (He et al. 2017, eq. 5).

Channels that go are predicted from those that stay, x_gone ≈ A · x_kept by least squares over samples and places, and
the product's weights take the prediction over: W_kept + W_gone · A. A convolution's kernel is one such product for each
of its places, as all see the same channels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from edgepress.exporter.interpreter.network import Feed, Hooks, Network, Step
from edgepress.exporter.methods.narrower.coupling import Coupling, Site
from edgepress.exporter.methods.narrower.reads import DATA_AXIS, Reads

_DAMPING = 1e-4  # of the mean square of the channels that stay


def mend(model: onnx.ModelProto, coupling: Coupling, kept: NDArray[np.bool_], samples: Iterable[Feed]) -> int:
    """Change, in ``model`` of its full size, the weights that read channels which go; how many products were changed.

    A convolution in groups stays as it is: its groups see different channels.
    """
    moments = _moments(model, coupling, kept, samples)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for site, moment in moments.items():
        stays = kept[Reads(coupling).channels(site)]
        inside = moment[np.ix_(stays, stays)]
        inside = inside + np.eye(len(inside)) * (_DAMPING * np.trace(inside) / len(inside) + 1e-12)
        prediction = np.linalg.solve(inside, moment[np.ix_(stays, ~stays)])  # (kept, gone)
        tensor = tensors[site.tensor]
        weight = np.moveaxis(numpy_helper.to_array(tensor), site.axis, 0).astype(np.float64)
        flat = weight.reshape(len(stays), -1)  # (channels, all else)
        flat[stays] += prediction @ flat[~stays]
        new = np.moveaxis(flat.reshape(weight.shape), 0, site.axis).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), tensor.name))
    return len(moments)


def _moments(
    model: onnx.ModelProto, coupling: Coupling, kept: NDArray[np.bool_], samples: Iterable[Feed]
) -> dict[Site, NDArray[np.float64]]:
    """Of each product that reads channels which go, the mean of x xᵀ over samples and places, (channels, channels)."""
    network, reads = Network(model), Reads(coupling)
    total: dict[Site, Tensor] = {}
    count: dict[Site, int] = {}

    def read(step: Step, index: int, value: Tensor) -> Tensor:
        site = reads.site(step, index)
        if site is not None and not kept[reads.channels(site)].all():
            x = value.detach().movedim(DATA_AXIS[step.key], 0).flatten(1)  # (channels, places)
            if len(x) == len(reads.channels(site)):
                moment = (x @ x.T).double()
                total[site] = total[site] + moment if site in total else moment
                count[site] = count.get(site, 0) + x.shape[1]
        return value

    for _ in network.batches(samples, hooks=Hooks(read=read)):
        pass
    return {site: (moment / max(count[site], 1)).numpy() for site, moment in total.items()}
