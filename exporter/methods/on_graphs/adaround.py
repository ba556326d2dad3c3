"""AdaRound: up or down is learned for each weight, by the output of its layer (Nagel et al. 2020).

"Up or Down? Adaptive Rounding for Post-Training Quantization", equations 21 to 25: codes are ⌊w / s⌋ + h(V) with
h(V) = clip(1.2 σ(V) − 0.1, 0, 1), and

    ‖f(W x) − f(W̃ x̃)‖²  +  λ Σ 1 − |2 h(V) − 1|^β

is minimized layer after layer: x̃ comes from the layers before as they ship, f is the clipping of the values' integers,
and β falls from 20 to 2, so that each h(V) ends at 0 or 1. The error is counted in units of that of rounding to
nearest, the sum over V as a mean. Where a layer is not better in the end than rounded to nearest, it stays that.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgepress.exporter.methods.kinds import GraphMethod
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.streams.reconstruct import Learning, reconstruct
from edgepress.exporter.streams.shipping import ChannelWeight, LayerOf
from edgepress.exporter.streams.shipping_task import ShippingTask

_WARM_UP = 0.2  # share of the steps without the second term
_BETAS = (20.0, 2.0)


def _run(task: ShippingTask, options: Options) -> None:
    steps = int(options["steps"])

    def begin(layer: LayerOf) -> Learning | None:
        weight = layer.weight
        return _open(weight, steps, options) if isinstance(weight, ChannelWeight) else None

    reconstruct(task, begin, method=METHOD.name, steps=steps, batch=int(options["batch"]))


def _open(weight: ChannelWeight, steps: int, options: Options) -> Learning:
    exact = weight.latent / weight.along(weight.scale)
    part = (exact - exact.floor()).clamp(0.01, 0.99)
    weight.soft = v = inverse(part).requires_grad_()

    def penalty(step: int) -> Tensor | None:
        done = (step / steps - _WARM_UP) / (1 - _WARM_UP)
        if done < 0:
            return None
        beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * 0.5 * (1 + math.cos(math.pi * done))
        h = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
        return float(options["regularization"]) * (1 - (2 * h - 1).abs().pow(beta)).mean()

    def harden() -> None:
        with torch.no_grad():
            v.copy_(torch.where(v >= 0, 10.0, -10.0))

    return Learning({v: float(options["rate"])}, [weight], harden, penalty=penalty)


def inverse(part: Tensor) -> Tensor:
    """V with h(V) = ``part``."""
    return -torch.log(1.2 / (part + 0.1) - 1)


METHOD = GraphMethod(
    name="adaround",
    place="weights",
    run=_run,
    forms=frozenset({"channels"}),
    declared={
        "start": Option("rtn"),
        "steps": whole_number(200),
        "batch": whole_number(4),
        "rate": Option(0.02, above=0, most=100),
        "regularization": Option(1.0, least=0, most=100),
    },
)
