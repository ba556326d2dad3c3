"""Round the projections of one layer in the order in which they are computed, each on what the rounded ones give."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.calibration import network
from edgepress.exporter.calibration.activations import Activations
from edgepress.exporter.calibration.codes import Codes
from edgepress.exporter.calibration.moments import Moments
from edgepress.exporter.calibration.tasks import LayerTask
from edgepress.exporter.compress import LinearMethod, Method, method_options
from edgepress.exporter.decoder import Linear, Weight
from edgepress.exporter.recipe import Recipe

_KEPT_BYTES = 512 << 20  # intermediate activations of one layer that may wait in memory; beyond, they are recomputed
_GROUPS = 4  # qkv; output; gate and up; down


def round_by_linear(
    task: LayerTask, methods: dict[str, Method | LinearMethod], recipe: Recipe, *, outputs: Activations | None
) -> bool:
    """Round the projections in the order in which they are computed, each on what the rounded ones before it give.

    The layer's ``outputs`` are written when they come for free; returns whether they were.
    """
    weights = [linear.weight for linear in task.linears() if task.scheme(linear.weight) is not None]
    if not any(isinstance(methods[weight.name], LinearMethod) for weight in weights):  # no need to run the layer
        for weight in weights:
            _round(task, weight, methods[weight.name], None, recipe)
        return False
    passes = _Passes(task)
    for group in range(_GROUPS):
        linears, moments = passes.before(group)
        for linear in linears:
            if task.scheme(linear.weight) is not None:
                _round(task, linear.weight, methods[linear.weight.name], moments, recipe)
    return outputs is not None and passes.finish(outputs)


def write_finite(outputs: Activations, batch: slice, y: Tensor, index: int) -> None:
    """Pass on what a layer gives, (sequences, length, hidden), if it can be computed with."""
    if not bool(torch.isfinite(y).all()):
        raise InputError(
            f"layer {index} gives NaN or infinite activations on the calibration text; the checkpoint "
            "overflows in float32 there: take another one, or another text"
        )
    outputs.write(batch, y)


class _Passes:
    """All batches on their way through a layer, stopped before projections that are not rounded yet.

    They wait in memory when there is room; else each group of projections is reached from the layer's inputs again.
    """

    def __init__(self, task: LayerTask) -> None:
        self._task = task
        widest = max(linear.weight.shape[1] for linear in task.linears()) + 2 * task.inputs.shape[2]
        self._keep = 4 * math.prod(task.inputs.shape[:2]) * widest <= _KEPT_BYTES
        self._waiting: list[_Waiting] = []

    def before(self, group: int) -> tuple[tuple[Linear, ...], Moments]:
        """Go on to a group of projections; returns them and what goes into them."""
        moments: Moments | None = None
        linears: tuple[Linear, ...] = ()
        for number, batch in enumerate(self._task.inputs.batches()):
            linears, x = self._reach(group, number, batch).step
            if moments is None:
                moments = Moments(x.shape[-1], self._task.device)
            moments.add(x)
        if moments is None or not bool(torch.isfinite(moments.largest).all()):
            raise InputError(
                f"NaN or infinite activations go into {linears[0].weight.name} on the calibration text; "
                "the checkpoint overflows in float32 there: take another one, or another text"
            )
        return linears, moments

    def _reach(self, group: int, number: int, batch: slice) -> _Waiting:
        if self._keep and group:
            self._waiting[number].answer()
            return self._waiting[number]
        task = self._task
        begun = _Waiting(network.layer_steps(task.layer, task.values, task.inputs.read(batch), task.rotary))
        if self._keep:
            self._waiting.append(begun)
        for _ in range(group):
            begun.answer()
        return begun

    def finish(self, outputs: Activations) -> bool:
        """Write what the layer gives if the batches wait behind their last projection; returns whether they do."""
        for batch, waiting in zip(outputs.batches(), self._waiting, strict=False):
            waiting.answer()
            write_finite(outputs, batch, waiting.output, self._task.index)
        return self._keep


class _Waiting:
    """The steps of one batch up to projections that are not rounded yet; ``output`` is there after the last ones."""

    def __init__(self, steps: network.Steps) -> None:
        self._steps = steps
        self.step = next(steps)
        self.output = torch.empty(0)

    def answer(self) -> None:
        """Compute the projections and what follows, up to the next ones."""
        try:
            self.step = self._steps.send(self.step[1])
        except StopIteration as end:
            self.output = end.value


def _round(
    task: LayerTask, weight: Weight, method: Method | LinearMethod, moments: Moments | None, recipe: Recipe
) -> None:
    scheme, full = task.scheme(weight), task.full(weight)
    if scheme is None:
        return
    if isinstance(method, Method):
        stored = method.quantize(full.cpu().numpy(), scheme, None)
        codes = Codes.unpack(stored, scheme, full.shape[1])
        task.codes[weight.name] = codes.to(task.device)
        return
    if moments is None:
        raise ValueError(f"{weight.name}: {method.name} needs moments")
    try:
        task.codes[weight.name] = method.quantize(full, scheme, moments, method_options(method, recipe))
    except InputError as error:
        raise InputError(f"{weight.name}: {error}") from error
