"""A pruned graph trained to compute what the original does: distillation on samples, which need no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.methods.narrower.task import GraphTask
from edgepress.exporter.methods.narrower.taught.composed import composed
from edgepress.exporter.methods.narrower.taught.lessons import make_lessons, sums_inside
from edgepress.exporter.methods.narrower.taught.whitened import frames_of
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

_LOOKED_AT = 4  # batches, for what products see


def retrain(task: GraphTask, options: Options) -> None:
    """Train the weights of ``task.model`` on the outputs of the original, and on values inside where asked."""
    check(task, options)
    assert task.samples is not None  # checked
    teacher, network = Network.read(task.original), Network(task.model)
    steps = int(options["steps"])
    lessons = make_lessons(
        list(islice(task.samples(), int(options["samples"]))),
        free=network.free_batch,
        name="retrain",
        steps=steps,
        batch=int(options["batch"]),
        options=options,
        seed=task.seed,
    )
    names = trained_constants(task.model)
    first = (lessons.feeds[index] for index in range(min(len(lessons.feeds), _LOOKED_AT * lessons.each)))
    frames = frames_of(network, names, first) if options["whiten"] else {}
    student = _composed(Student.of(network, names, float(options["rate"]), frames), task.model)
    loss: Literal["kl", "square"] = "kl" if options["loss"] == "kl" else "square"
    outputs = [value.name for value in task.model.graph.output]
    matches = [Match(name, name, loss, 1.0, float(options["temperature"])) for name in outputs]
    if weight := float(options["features"]):
        inside = sums_inside(teacher, network, lessons.checked[0], int(options["features_at"]), "retrain")
        matches += [Match(name, name, "square", weight / len(inside)) for name in inside]
        task.report["features"] = inside
    task.state_file.parent.mkdir(parents=True, exist_ok=True)
    training = distil(
        student,
        teacher,
        lessons.feeds,
        matches,
        name="retrain",
        state_file=task.state_file,
        steps=steps,
        batch=lessons.each,
        checked=lessons.checked,
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


def _composed(student: Student, model: onnx.ModelProto) -> Student:
    """The student of ``model`` with its filters computed as convolutions; what is trained and kept is the same."""
    made, weights = composed(model)

    def constants() -> Mapping[str, Tensor]:
        own = student.constants()
        return {**own, **{weight.name: weight.value(own) for weight in weights}}

    return replace(student, network=Network(made), constants=constants) if weights else student


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
