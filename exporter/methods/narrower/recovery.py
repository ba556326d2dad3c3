"""A pruned graph trained to compute what the original does: distillation on samples, which need no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Feed, Network
from edgepress.exporter.methods.narrower.task import GraphTask
from edgepress.exporter.methods.options import Options
from edgepress.exporter.streams.distilling import Match, Student, distil

_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Attention", "BatchNormalization", "LayerNormalization"), (1, 2)),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "RMSNormalization"), (1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3)),
    **dict.fromkeys(("Gemm", "MatMul", "Add", "Mul", "Einsum"), (0, 1, 2)),
    "PRelu": (1,),
    "Gather": (0,),
    "MultiHeadAttention": (3,),
    "SkipLayerNormalization": (2, 3, 4),
    "SkipSimplifiedLayerNormalization": (2, 3),
    "SimplifiedLayerNormalization": (1,),
}
"""The inputs of operators that are trained where they are constants of several numbers."""


class Batches(Sequence[Feed]):
    """Batches of samples drawn at random, changed as images are where asked; the same batch by the same number.

    Inputs of four axes are images (n, channels, height, width). ``flip`` turns half of them left to right, ``shift``
    moves them by up to so many pixels (edges repeated), ``mix`` takes a weighted mean of each sample with another,
    as mixup does (Zhang et al. 2018, arXiv:1710.09412; the teacher sees the mixture too, so labels need none).
    """

    def __init__(self, samples: Sequence[Feed], count: int, batch: int, seed: int, changes: Options) -> None:
        self._pool = {name: np.concatenate([feed[name] for feed in samples]) for name in samples[0]}
        self._rows = len(next(iter(self._pool.values())))
        self._count, self._batch, self._seed, self._changes = count, batch, seed, changes

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice) -> Feed:  # type: ignore[override]  # one at a time is all that is asked
        random = np.random.default_rng((self._seed, int(index)))  # type: ignore[arg-type] # no slice, see above
        rows = random.choice(self._rows, min(self._batch, self._rows), replace=False)
        flip, shift = bool(self._changes["flip"]), int(self._changes["shift"])
        feed = {
            name: _moved(values[rows], random, flip=flip, shift=shift) if _are_images(values) else values[rows]
            for name, values in self._pool.items()
        }
        return _mixed(feed, random) if self._changes["mix"] else feed


def _are_images(values: NDArray[Any]) -> bool:
    return values.ndim == 4 and values.dtype == np.float32


def _mixed(feed: Feed, random: np.random.Generator) -> Feed:
    """Half of the samples, each in a weighted mean with another one; what is not float32 stays its own."""
    rows = len(next(iter(feed.values())))
    order, share = random.permutation(rows), random.beta(1.0, 1.0, rows).astype(np.float32)
    share[random.random(rows) < 0.5] = 1
    found = dict(feed)
    for name, values in feed.items():
        if values.dtype == np.float32:
            own = share.reshape(-1, *[1] * (values.ndim - 1))
            floats = values.astype(np.float32, copy=False)
            found[name] = own * floats + (1 - own) * floats[order]
    return found


def _moved(images: NDArray[Any], random: np.random.Generator, *, flip: bool, shift: int) -> NDArray[Any]:
    """Images (n, channels, height, width), some turned left to right, each moved by some pixels."""
    count, _, height, width = images.shape
    if flip:
        turned = np.asarray(random.random(count)) < 0.5
        images = np.where(turned[:, None, None, None], images[..., ::-1], images)
    if shift:
        around = np.pad(images, ((0, 0), (0, 0), (shift, shift), (shift, shift)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(around, (height, width), (2, 3))  # (n, c, y, x, h, w)
        y, x = random.integers(0, 2 * shift + 1, (2, count))
        images = windows[np.arange(count), :, y, x]
    return np.ascontiguousarray(images)


def retrain(task: GraphTask, options: Options) -> None:
    """Train the weights of ``task.model`` on the outputs of the original, and on values inside where asked."""
    check(task, options)
    assert task.samples is not None  # checked
    teacher, network = Network.read(task.original), Network(task.model)
    taken = list(islice(task.samples(), int(options["samples"])))
    feeds = _batches(task, taken, options)
    student = Student.of(network, trained_constants(task.model), float(options["rate"]))
    loss: Literal["kl", "square"] = "kl" if options["loss"] == "kl" else "square"
    outputs = [value.name for value in task.model.graph.output]
    matches = [Match(name, name, loss, 1.0, float(options["temperature"])) for name in outputs]
    if weight := float(options["features"]):
        inside = _shared_values(teacher, network, feeds[0], int(options["features_at"]))
        matches += [Match(name, name, "square", weight / len(inside)) for name in inside]
        task.report["features"] = inside
    task.state_file.parent.mkdir(parents=True, exist_ok=True)
    training = distil(
        student,
        teacher,
        feeds,
        matches,
        name="retrain",
        state_file=task.state_file,
        steps=int(options["steps"]),
        batch=1,
        progress=task.progress,
        seed=task.seed,
    )
    made = onnx.ModelProto()
    made.CopyFrom(task.model)
    for tensor in made.graph.initializer:
        if tensor.name in training.best:
            value = training.best[tensor.name].cpu().numpy()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    task.made = made
    task.report["curve"] = [[step, None if np.isnan(seen) else seen, held] for step, seen, held in training.curve]


def check(task: GraphTask, options: Options) -> None:  # noqa: ARG001 - the signature of `GraphPruning.check`
    """See :class:`~edgepress.exporter.methods.kinds.GraphPruning`."""
    if task.samples is None:
        raise InputError("prune: retrain learns from samples of what the model is for, and there are none; give some")


def trained_constants(model: onnx.ModelProto) -> list[str]:
    """The constants that are trained: weights, biases, gains; not what norms have counted, nor sizes."""
    floats = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 1
    }
    read = [
        node.input[index]
        for node in model.graph.node
        for index in _WEIGHTS.get(node.op_type, ())
        if index < len(node.input)
    ]
    return [name for name in dict.fromkeys(read) if name in floats]


def _batches(task: GraphTask, taken: Sequence[Feed], options: Options) -> Sequence[Feed]:
    """What is trained on: samples one by one where the batch is fixed, else batches of them."""
    inputs = [value.type.tensor_type.shape.dim for value in task.model.graph.input]
    free = all(dims and not dims[0].dim_value for dims in inputs)
    alike = len({tuple((name, array.shape[1:]) for name, array in sorted(feed.items())) for feed in taken}) == 1
    if not free or not alike:
        return taken
    return Batches(taken, int(options["batches"]), int(options["batch"]), task.seed, options)


def _shared_values(teacher: Network, student: Network, feed: Feed, count: int) -> list[str]:
    """Values of both graphs that have one shape, evenly spread: sums, which residual streams are made of.

    Raises:
        InputError: there are none.

    """
    names = [step.outputs[0] for step in student.steps if step.key == "Add"]
    theirs = {name for step in teacher.steps for name in step.outputs}
    both = [name for name in names if name in theirs and name not in student.outputs]
    with torch.no_grad():
        found = [network.run(network.tensors(feed), both) for network in (student, teacher)]
    same = [name for name in both if found[0][name].dim() > 2 and found[0][name].shape == found[1][name].shape]
    if not same:
        raise InputError(
            "[options.retrain] features: no sum inside the pruned graph has the shape that it has in the original; "
            "leave features out"
        )
    places = np.unique(np.linspace(0, len(same) - 1, min(count, len(same))).round().astype(int))
    return [same[place] for place in places]
