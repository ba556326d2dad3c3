"""SmoothQuant (Xiao et al. 2022): outliers of the activations move into the weights.

Input channel j is divided by s_j = max|x_j|^α / max|W_j|^(1−α) and column j of the weights multiplied by it (equation
4): with α = 0.5 both then have the same largest magnitude. It is for recipes that round activations too; which inputs
can be scaled is in :mod:`.folding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgepress.exporter.methods.folding import Group, foldable_groups, not_foldable
from edgepress.exporter.methods.kinds import Transform, unchanged
from edgepress.exporter.methods.options import Option, Options

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.methods.tasks import LayerTask

_LEAST = 1e-5  # of the largest channel: what a channel of zeros counts as


def _fold(task: LayerTask, options: Options) -> None:
    alpha = float(options["alpha"])
    moments = task.observe(task.full)
    # the last first: it divides rows of weights whose columns are measured for an earlier group after that
    for group in reversed(foldable_groups(task.layer)):
        largest = moments[group.linears[0].weight.name].largest
        group.fold(task.weights, smoothing_scales(group, task.weights, largest, alpha))


def smoothing_scales(group: Group, weights: dict[str, Tensor], largest: Tensor, alpha: float) -> Tensor:
    """Scales of the group's channels, (channels,), from the ``largest`` input of each column, (columns,)."""
    by_column = torch.stack([weights[linear.weight.name].abs().amax(0) for linear in group.linears]).amax(0)
    x, w = (group.by_channel(values, "amax") for values in (largest, by_column))
    x, w = (values.clamp_min(float(values.max()) * _LEAST) for values in (x, w))
    if not (float(x.max()) > 0 and float(w.max()) > 0):
        return torch.ones_like(x)
    return x**alpha / w ** (1 - alpha)


METHOD = Transform("smoothquant", unchanged, _fold, not_foldable, declared={"alpha": Option(0.5, least=0, most=1)})
