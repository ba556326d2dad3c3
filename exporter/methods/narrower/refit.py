"""Products fitted anew to what they computed before something went (He et al. 2017, sections 3.2 and 3.3).

One after the other, in the graph's order: by least squares over samples and places, a product learns to make the
values of the whole graph from what the smaller graph, fitted so far, sends it, so that errors do not
add up from layer to layer. Where its output is added to another value, as at the end of a residual block, it learns
the whole graph's sum less what that value brings now. How far weights may move from where they are (a ridge) is chosen
by one sample in four, which nothing is fitted to; a product that gets no better on these stays as it is, as do
convolutions in groups, transposed or in one dimension, and products that see more than 4,608 numbers.

Memory: what lies between two nodes, of all samples, in both graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from edgepress.exporter.interpreter.network import Feed, Hooks, Network, Step
from edgepress.exporter.methods.narrower.coupling import Coupling
from edgepress.exporter.methods.narrower.reads import (
    DATA_AXIS,
    constant_weight,
    numbers,
    rows_first,
    what_it_sees,
)
from edgepress.exporter.methods.narrower.task import rows_of

_MOST = 4608  # numbers that a product may see: 512 channels through a kernel of 3 × 3
_CHECKED = 4  # one sample in so many chooses the ridge
_PLACES = 100  # for each number that a product sees, about so many are fitted to, evenly spread, where there are more
_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean square of what a product sees


@dataclass
class _Moments:
    """Sums over samples and places: of x xᵀ (numbers, numbers), and of what is missing, r xᵀ (out, numbers)."""

    xx: Tensor
    rx: Tensor

    @classmethod
    def of(cls, x: Tensor, missing: Tensor) -> _Moments:
        """Of x (numbers, places) and what is missing there (out, places)."""
        return cls((x @ x.T).double(), (missing @ x.T).double())

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.xx + other.xx, self.rx + other.rx)

    def change(self, ridge: float) -> Tensor:
        """What to add to the weights (out, numbers), float64."""
        damping = ridge * float(self.xx.diagonal().mean()) + torch.finfo(torch.float32).tiny
        root = torch.linalg.cholesky(self.xx + damping * torch.eye(len(self.xx), dtype=torch.float64))
        return torch.cholesky_solve(self.rx.T, root).T

    def gain(self, change: Tensor) -> float:
        """By how much the sum of squares of what is missing falls with this change."""
        return float(2 * (change * self.rx).sum() - ((change @ self.xx) * change).sum())


class _Run:
    """A graph computed node by node, for all feeds at once. ``held`` has of each feed what is ``wanted`` so far."""

    def __init__(self, network: Network, feeds: Sequence[Feed], wanted: Collection[str] = ()) -> None:
        self.network, self._wanted = network, frozenset(wanted)
        self.plan = network.plan(network.inputs, network.outputs)
        self.values = [dict(network.tensors(feed)) for feed in feeds]
        self.held: list[dict[str, Tensor]] = [{} for _ in feeds]
        self._done = 0

    def step(self) -> None:
        """Compute the next node, and forget what nothing reads any more."""
        step, dead = self.plan[self._done]
        for values, held in zip(self.values, self.held, strict=True):
            self.network.do(step, values)
            held |= {name: values[name] for name in self._wanted.intersection(step.outputs)}
            for name in dead:
                values.pop(name, None)
        self._done += 1

    def until(self, name: str) -> None:
        """Compute until the wanted value is held."""
        while name not in self.held[0]:
            self.step()

    def drop(self, name: str) -> None:
        """Hold a value no longer."""
        for held in self.held:
            del held[name]


@dataclass(frozen=True)
class _Product:
    """A product that is fitted: to ``target`` of the whole graph, at its rows ``kept``, less what ``other`` brings."""

    step: Step
    target: str
    other: str
    kept: Tensor


Rows = Callable[[Step, int], Tensor | None]
"""Which rows of the whole graph's product one of so many still has, (rows,) bool; None where that is not known."""


def all_rows(step: Step, count: int) -> Tensor:  # noqa: ARG001 - the signature of `Rows`
    """A product makes all that it made before."""
    return torch.ones(count, dtype=torch.bool)


def refit(
    cut: onnx.ModelProto, whole: onnx.ModelProto, coupling: Coupling, kept: NDArray[np.bool_], samples: Iterable[Feed]
) -> tuple[int, int]:
    """Fit the products of ``cut``, which is ``whole`` without some channels; how many were, and of how many.

    ``coupling`` is that of ``whole``, ``kept`` the channels that stay, (count,).
    """
    sites = [site for group in coupling.groups for site in group.sites if site.reads]
    changed = {site.tensor for site in sites if not _stays(coupling, kept, site.tensor, site.axis).all()}

    def rows(step: Step, _: int) -> Tensor | None:
        if any(axis is None for axis in coupling.tensors.get(step.inputs[1], (None,))[:2]):
            return None
        return torch.from_numpy(_stays(coupling, kept, step.inputs[1], 0 if rows_first(step) else 1))

    return fit_anew(cut, whole, changed, samples, rows=rows)


def fit_anew(
    made: onnx.ModelProto,
    whole: onnx.ModelProto,
    changed: Collection[str],
    samples: Iterable[Feed],
    *,
    rows: Rows = all_rows,
) -> tuple[int, int]:
    """Fit the products of ``made`` that read a constant of ``changed`` or stand behind one that does.

    How many were fitted, and of how many. Both graphs name what they have in common alike.
    """
    feeds = list(samples)
    student, teacher = Network(made), Network(whole)
    products = _products(student, teacher, changed, rows, _shapes(student, feeds[0])) if feeds else {}
    if sum(map(rows_of, feeds)) < _CHECKED:
        return 0, len(products)
    fitted: dict[str, Tensor] = {}
    with torch.no_grad():
        right = _Run(teacher, feeds, [one.target for one in products.values()])
        run = _Run(student, feeds)
        last = {one.target: step for step, one in products.items()}
        for step, _ in run.plan:
            if (product := products.get(step.name)) is not None:
                right.until(product.target)
                fitted |= _fitted(product, run, right)
                student.constants.update(fitted)
                if last[product.target] == step.name:
                    right.drop(product.target)
            run.step()
    for tensor in made.graph.initializer:
        if tensor.name in fitted:
            tensor.CopyFrom(numpy_helper.from_array(fitted[tensor.name].numpy(), tensor.name))
    return sum(one.step.inputs[1] in fitted for one in products.values()), len(products)


def _shapes(network: Network, feed: Feed) -> dict[str, torch.Size]:
    """The shape of every value, of one feed."""
    found: dict[str, torch.Size] = {}

    def made(name: str, value: Tensor) -> Tensor:
        found[name] = value.shape
        return value

    with torch.no_grad():
        network.run(network.tensors(feed), hooks=Hooks(made=made))
    return found


def _products(
    student: Network, teacher: Network, changed: Collection[str], rows: Rows, shapes: Mapping[str, torch.Size]
) -> dict[str, _Product]:
    """By the node, the products that see something else than before and can be fitted."""
    readers = Counter(name for step in student.steps for name in (*step.inputs, *step.reads))
    reader = {name: step for step in student.steps for name in step.inputs}
    theirs = {name for step in teacher.steps for name in step.outputs}
    differ = set(changed)
    known, found = set(student.inputs) | student.constants.keys(), {}
    for step, _ in student.plan(student.inputs, student.outputs):
        known |= set(step.outputs)
        if not differ.intersection((*step.inputs, *step.reads)):
            continue
        differ |= set(step.outputs)
        output = step.outputs[0]
        weight = _fittable(step, student, readers)
        stays = None if weight is None else rows(step, len(weight) if rows_first(step) else weight.shape[1])
        if stays is None or output not in theirs:
            continue
        target, other, after = output, "", reader.get(output)
        if after is not None and after.key == "Add" and readers[output] == 1 and after.outputs[0] in theirs:
            beside = after.inputs[1 - after.inputs.index(output)]
            if beside in known - student.constants.keys() and shapes[beside] == shapes[output]:
                target, other = after.outputs[0], beside
        found[step.name] = _Product(step, target, other, stays)
    return found


def _stays(coupling: Coupling, kept: NDArray[np.bool_], tensor: str, axis: int) -> NDArray[np.bool_]:
    """Which channels along an axis of a constant stay."""
    labels = coupling.tensors[tensor][axis]
    assert labels is not None  # products know the channels of their weights
    stays: NDArray[np.bool_] = kept[coupling.channel_of[labels]]
    return stays


def _fittable(step: Step, network: Network, readers: Mapping[str, int]) -> Tensor | None:
    """The constant that a product reads and nothing else does, where its places are known and not too many."""
    weight = constant_weight(step, network)
    if weight is None or numbers(step, weight) > _MOST or any(readers[name] > 1 for name in step.inputs[1:] if name):
        return None
    return weight


def _fitted(product: _Product, run: _Run, right: _Run) -> dict[str, Tensor]:
    """The weight and the bias of a product as they are to be; nothing where they are not better so."""
    step, constants = product.step, run.network.constants
    weight = constants[step.inputs[1]]
    rows = weight if rows_first(step) else weight.T  # (out, …)
    bias = _bias(step, run.network, len(rows))
    sums: list[_Moments] = []  # of the samples that are fitted to, and of those that choose the ridge
    count, total = 0, sum(values[step.inputs[0]].shape[0] for values in run.values)
    for values, wanted in zip(run.values, right.held, strict=True):
        seen = what_it_sees(step, values[step.inputs[0]], weight)
        if bias is not None:
            seen = torch.cat([seen, seen.new_ones(1, seen.shape[1])])
        missing = _missing(product, run.network, values, wanted[product.target])  # (out, places)
        samples = len(values[step.inputs[0]])
        each = seen.shape[1] // samples
        some = slice(None, None, max(1, total * each // (_PLACES * len(seen))) | 1)  # odd: not always the same columns
        sample = torch.arange(count, count + samples).repeat_interleave(each)[some]
        checked = sample % _CHECKED == _CHECKED - 1
        seen, missing = seen[:, some], missing[:, some]
        here = [_Moments.of(seen[:, mask], missing[:, mask]) for mask in (~checked, checked)]
        sums = [old + new for old, new in zip(sums, here, strict=True)] if sums else here
        count += samples
    change = _best_change(*sums)
    if change is None:
        return {}
    more = change[:, : rows[0].numel()].float().reshape(rows.shape)
    found = {step.inputs[1]: weight + (more if rows_first(step) else more.T)}
    return found if bias is None else {**found, step.inputs[2]: bias + change[:, -1].float()}


def _bias(step: Step, network: Network, rows: int) -> Tensor | None:
    """The constant that a product adds, (rows,), None where there is none of that shape."""
    bias = network.constants.get(step.inputs[2]) if len(step.inputs) > 2 else None
    return bias if bias is not None and bias.shape == (rows,) else None


def _missing(product: _Product, network: Network, values: dict[str, Tensor], wanted: Tensor) -> Tensor:
    """What a product would have to add to its output, (out, places)."""
    step = product.step
    network.do(step, values)
    brought = values.pop(step.outputs[0])
    if product.other:
        brought = brought + values[product.other]
    axis = DATA_AXIS[step.key]
    return wanted.movedim(axis, 0).flatten(1)[product.kept] - brought.movedim(axis, 0).flatten(1)


def _best_change(learned: _Moments, checked: _Moments) -> Tensor | None:
    """The change with the ridge that is best where nothing was fitted; None where none is better than no change."""
    gains = [checked.gain(learned.change(ridge)) for ridge in _RIDGES]
    best = int(np.argmax(gains))
    return (learned + checked).change(_RIDGES[best]) if gains[best] > 0 else None
