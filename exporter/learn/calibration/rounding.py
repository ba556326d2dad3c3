"""Round the projections of one layer in the order in which they are computed, each for the inputs that it will have."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.parallel import at_once, each, pieces
from edgepress.exporter.arrays.scheme import FEWEST_TOKENS
from edgepress.exporter.methods.kinds import LinearMethod, Method, method_options, round_rows
from edgepress.exporter.methods.tasks import LayerTask
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import layer_groups, layer_rounds, layer_weights
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.recipe.recipe import Recipe

_KEPT_BYTES = 512 << 20  # intermediate activations of one layer that may wait in memory; beyond, they are recomputed
_BATCH_TOKENS = 1024  # each core has a batch of its own on its way through the layer


def round_by_linear(
    task: LayerTask, methods: dict[str, Method | LinearMethod], recipe: Recipe, *, outputs: Activations | None
) -> bool:
    """Round the projections in the order in which they are computed, each for inputs from the rounded ones before it.

    The layer's ``outputs`` are written when that takes no second run of it; returns whether they were.
    """
    weights = [linear.weight for linear in task.linears() if task.scheme(linear.weight) is not None]
    if not any(isinstance(methods[weight.name], LinearMethod) for weight in weights):  # no need to run the layer
        for weight in weights:
            _round(task, weight, methods[weight.name], None, recipe)
        return False
    passes = _Passes(task)
    for groups in passes.together():
        for linears, moments in passes.before(groups):
            _round_group(task, linears, moments, methods, recipe)
    if outputs is None:
        return False
    passes.finish(outputs)
    return True


def pass_on(task: LayerTask, outputs: Activations) -> None:
    """Run the layer as it will be stored, and write its outputs."""
    _Passes(task).finish(outputs)


def _write_finite(outputs: Activations, batch: slice, y: Tensor, index: int) -> None:
    """Write a layer's outputs, (sequences, length, hidden), if they are finite."""
    if not bool(torch.isfinite(y).all()):
        raise InputError(
            f"layer {index} gives NaN or infinite activations on the calibration text; the checkpoint "
            "overflows in float32 there: take another one, or another text"
        )
    outputs.write(batch, y)


def _room(task: LayerTask) -> int:
    """Bytes of activations that may wait in memory: as many as the layer's weights take."""
    return max(_KEPT_BYTES, 4 * sum(weight.numel() for weight in task.weights.values()))


class _Passes:
    """All batches run through a layer up to the projections that are rounded next.

    Their activations stay in memory when there is room; else they are computed from the layer's inputs again, for all
    projections at once that do not depend on each other (the experts of a mixture).
    """

    def __init__(self, task: LayerTask) -> None:
        self._task = task
        widest = max(linear.weight.shape[1] for linear in task.linears()) + 2 * task.inputs.shape[2]
        self._keep = 4 * math.prod(task.inputs.shape[:2]) * widest <= _room(task)
        self._batches = task.inputs.batches(_BATCH_TOKENS)
        self._waiting: dict[int, _Waiting] = {}  # by the number of the batch
        self._rounded: list[Linear] = []
        self._dequantized: dict[str, Tensor] = {}

    def together(self) -> list[list[int]]:
        """Numbers of the groups of projections up to which one pass goes, all of them in an order to be rounded in."""
        groups = layer_groups(self._task.layer)
        if self._keep:
            return [[number] for number in range(len(groups))]
        found: list[list[int]] = []
        for numbers in layer_rounds(self._task.layer):
            free = 0
            for number in numbers:
                nbytes = 4 * groups[number][0].weight.shape[1] ** 2  # of its second moments
                if nbytes > free:
                    found.append([])
                    free = _room(self._task)
                found[-1].append(number)
                free -= nbytes
        return found

    def before(self, groups: list[int]) -> list[tuple[tuple[Linear, ...], Moments]]:
        """Run the batches up to these groups of projections; returns them, and the moments of what goes into each."""
        device = self._task.device
        linears = [layer_groups(self._task.layer)[group] for group in groups]
        moments = [Moments(group[0].weight.shape[1], device) for group in linears]
        dequantized = {linear.weight.name: self._task.values(linear.weight) for linear in self._rounded}
        self._dequantized = dequantized if self._keep else self._dequantized | dequantized
        for some in _together(len(self._batches), device):
            for inputs in each(lambda number: self._inputs(groups, number), some, device):
                for one, x in zip(moments, inputs, strict=True):
                    one.add(x)
        self._rounded = [linear for group in linears for linear in group]
        for group, one in zip(linears, moments, strict=True):
            if not bool(torch.isfinite(one.largest).all()):
                raise InputError(
                    f"NaN or infinite activations go into {group[0].weight.name} on the calibration text; "
                    "the checkpoint overflows in float32 there: take another one, or another text"
                )
        return list(zip(linears, moments, strict=True))

    def _inputs(self, groups: list[int], number: int) -> list[Tensor]:
        """What goes into each of the groups, of one batch."""
        batch, passed = self._reach(groups[0], number), groups[0]
        found = [batch.step[1]]
        for group in groups[1:]:
            for _ in range(group - passed):
                batch.answer()
            passed = group
            found.append(batch.step[1])
        return found

    def _reach(self, group: int, number: int) -> _Waiting:
        waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.answer()
            return waiting
        task = self._task
        x = task.inputs.read(self._batches[number])
        begun = _Waiting(network.layer_steps(task.layer, self._values, x, task.rotaries))
        for _ in range(group):
            begun.answer()
        if self._keep:
            self._waiting[number] = begun
        return begun

    def _values(self, weight: Weight) -> Tensor:
        """``weight`` as it will be stored; what every batch uses anew is dequantized once."""
        found = self._dequantized.get(weight.name)
        return self._task.values(weight) if found is None else found

    def finish(self, outputs: Activations) -> None:
        """Write the layer's outputs, with all its projections rounded."""
        device, groups = self._task.device, len(layer_groups(self._task.layer))
        asked = [linear.weight for linear in self._rounded] if self._waiting else layer_weights(self._task.layer)
        self._dequantized = {weight.name: self._task.values(weight) for weight in asked}
        for some in _together(len(self._batches), device):
            reached = each(lambda number: self._reach(groups, number).output, some, device)
            for number, y in zip(some, reached, strict=True):
                _write_finite(outputs, self._batches[number], y, self._task.index)


def _together(count: int, device: torch.device) -> list[range]:
    """Numbers of batches, as many at a time as are computed at once."""
    return [range(part.start, part.stop) for part in pieces(count, at_once(device))]


class _Waiting:
    """One batch run up to projections that are not rounded yet; ``output`` is set after the last ones."""

    def __init__(self, steps: operations.Steps) -> None:
        self._steps = steps
        self.step = next(steps)
        self.output = torch.empty(0)

    def answer(self) -> None:
        """Compute the projections and what follows, up to the next ones."""
        try:
            self.step = self._steps.send(self.step[1])
        except StopIteration as end:
            self.output = end.value


def _round_group(
    task: LayerTask,
    linears: tuple[Linear, ...],
    moments: Moments,
    methods: dict[str, Method | LinearMethod],
    recipe: Recipe,
) -> None:
    """Round projections that share their input."""
    asked = [linear.weight for linear in linears if task.scheme(linear.weight) is not None]
    each(lambda weight: _round(task, weight, methods[weight.name], moments, recipe), asked, task.device)


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
    if (weight.stack or weight.expert) and moments is not None and moments.count < FEWEST_TOKENS:
        if not scheme.zeros:
            task.few[weight.name] = moments.count
            nearest = round_rows(weight, full.cpu().numpy(), replace(scheme, method="rtn"))
            task.codes[weight.name] = Codes.unpack(nearest, scheme, full.shape[1]).to(task.device)
            return
        moments = Moments(full.shape[1], task.device)  # as if all inputs were alike, and none came with another
        moments.add(torch.eye(full.shape[1], device=task.device))
    if moments is None:
        raise ValueError(f"{weight.name}: {method.name} needs moments")
    try:
        task.codes[weight.name] = method.quantize(full, scheme, moments, method_options(method, recipe))
    except InputError as error:
        raise InputError(f"{weight.name}: {error}") from error
