"""Distillation of a pruned model: all its weights are trained to reproduce the original's logits.

The loss, a mean over tokens, is ``forward`` · KL(original ‖ student) + ``reverse`` · KL(student ‖ original), both of
distributions at ``temperature`` T and times T² (Hinton et al. 2015; the reverse divergence: Gu et al. 2024, MiniLLM),
+ ``hidden`` · the squared distance of residual streams over the original's square, after ``hidden_layers`` layers that
lie evenly over either model (Jiao et al. 2020, TinyBERT), + ``truth`` · the next-token loss on the text itself. The
original is run on the same text; where tokens were removed, its logits are cut to those that are left. A model of which
only tokens were removed has the original's logits already, so it can learn from ``truth`` only.

All weights learn (``rank = 0``), or low-rank adapters beside the projections that are added to them at the end (Hu et
al. 2021, LoRA), with norms and biases. With ``quantized`` the student computes with its weights as the recipe will
store them, and gradients go straight through the rounding (Bengio et al. 2013): what is trained is what the bundle has.
Methods that need a projection's inputs cannot be run at every step; rtn is used instead.

Learning rates are relative to a tensor's root mean square, so that one ``rate`` fits every tensor. Memory: 20 bytes for
each number that is trained (4 more with ``quantized``), and 4 for the others; the original is run once, a layer at a
time, and its streams lie on disk: 4 · hidden size bytes a token for each layer that is compared.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.arrays.sealed import DamagedError, check_hashes, hashes, read_sealed_json, write_sealed_json
from edgepress.exporter.methods.kinds import GraphPruning, Method, Pruning, Size, load_method
from edgepress.exporter.methods.narrower.taught import lessons, recovery
from edgepress.exporter.methods.options import MANY, Option, Options, whole_number
from edgepress.exporter.methods.smaller.checkpoint import NewTensor, copied
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder, layer_weights
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.source.part import Part
from edgepress.exporter.streams.learned import split
from edgepress.exporter.streams.streams import embedded, held, pass_layer, values_of
from edgepress.exporter.streams.training import (
    LOGITS,
    Trained,
    Training,
    check_memory,
    mean_over_tokens,
    owner,
    passed,
    summed,
)

_STATE_FILE = "retrain.state"
_TEACHER_FILE = "teacher.json"  # says that the original's streams are whole
_NUMBER_BYTES = 20  # a number that learns, its gradient, Adam's two moments and the best so far
_ROUNDED_BYTES = 4
_log = logging.getLogger("edgepress.pruning")
_NONE = -100  # in the place of the token after the last


@dataclass
class Student:
    """The model that is trained: ``floats`` are its weights, ``adapters`` what is added to some of them.

    An adapter is (rows, rank) and (rank, columns), multiplied. ``schemes`` has the scheme of each weight that the
    student uses as it will be stored.
    """

    decoder: Decoder
    floats: dict[str, Tensor]
    adapters: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    _rounded: dict[str, Tensor] = field(default_factory=dict)  # as stored, since the last step

    def merged(self, name: str) -> Tensor:
        """A weight with its adapter, in full precision."""
        if name not in self.adapters:
            return self.floats[name]
        left, right = self.adapters[name]
        return self.floats[name] + left @ right

    def values(self, weight: Weight) -> Tensor:
        """See :data:`~edgepress.exporter.model.operations.Values`."""
        name = owner(self.decoder, weight).name
        value, scheme = self.merged(name), self.schemes.get(name)
        if scheme is None:
            return value
        if name not in self._rounded:
            self._rounded[name] = as_stored(value.detach(), scheme)
        return value + (self._rounded[name] - value).detach()

    def forget_rounded(self) -> None:
        """Drop the rounded values: the weights have changed."""
        self._rounded.clear()

    def result(self) -> dict[str, Tensor]:
        """Every trained weight, merged, by name: copies that further training does not change."""
        learned = {name for name, value in self.floats.items() if value.requires_grad} | set(self.adapters)
        return {name: self.merged(name).detach().clone() for name in sorted(learned)}


def as_stored(weight: Tensor, scheme: Scheme) -> Tensor:
    """``weight`` (rows, columns) rounded by the scheme's method, rtn if that needs inputs, and dequantized."""
    method = load_method(scheme.method)
    rounding = method if isinstance(method, Method) else load_method("rtn")
    assert isinstance(rounding, Method)
    packed = rounding.quantize(weight.cpu().numpy(), scheme, None)
    return Codes.unpack(packed, scheme, weight.shape[1]).dequantize().to(weight.device)


@dataclass(frozen=True)
class Teacher:
    """The original run on the text: its residual stream after some layers, and the head that makes logits of it."""

    decoder: Decoder
    values: operations.Values
    streams: Mapping[int, Activations]  # by the number of layers passed
    last: int

    def logits(self, x: Tensor) -> Tensor:
        """Logits (tokens, vocabulary) of the student's tokens."""
        return network.head_forward(self.decoder, self.values, x)


def run(task: PruneTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`.

    Raises:
        InputError: an option is out of range, the text has one sequence only, or memory does not do.

    """
    check(task, options)
    pairs = _compared(task, options)
    tokens = task.tokens(task.recipe.calibration.training_tokens)
    trained_on, held_out = split(len(tokens), task.seed, METHOD.name)
    student, trained = make_student(task, options)
    teacher = teach(task, tokens, [theirs for _, theirs in pairs])
    rotaries = network.rotaries(task.decoder, tokens.shape[1], task.device)
    at = [ours for ours, _ in pairs]

    def loss(sequences: NDArray[np.int64]) -> Tensor:
        ids = torch.from_numpy(tokens[sequences]).to(task.device)
        streams = passed(task.decoder, student.values, network.embed(task.decoder, student.values, ids), rotaries, at)
        reference = teacher.streams[teacher.last].read_some(sequences)
        x = streams[len(task.decoder.layers)]
        found = _output_loss(student, teacher, reference, x, tokens=ids, options=options)
        if pairs:
            distances = [_distance(streams[ours], teacher.streams[theirs], sequences) for ours, theirs in pairs]
            found = found + float(options["hidden"]) * torch.stack(distances).mean()
        return found

    training = Training(
        name=METHOD.name,
        trained=trained,
        loss=loss,
        snapshot=student.result,
        held_out=held_out,
        length=tokens.shape[1],
        state_file=task.folder / _STATE_FILE,
        seed=task.seed,
        settle=student.forget_rounded,
    )
    steps, batch = int(options["steps"]), int(options["batch"])
    training.run(trained_on, steps=steps, batch=batch, progress=task.progress, label="retraining")
    task.report["held_out_loss"] = [round(training.curve[0][2], 4), round(training.least, 4)]  # before and after
    task.report["curve"] = [[step, None if math.isnan(seen) else seen, out] for step, seen, out in training.curve]
    values = {name: value.cpu().numpy() for name, value in training.best.items()}
    task.write(config=_config(task, options), tensors=_tensors(task, values, keep=not options["quantized"]))


def make_student(task: PruneTask, options: Options) -> tuple[Student, dict[str, Trained]]:
    """The student before training, and its parameters that are trained.

    Raises:
        InputError: what will be trained does not fit into memory.

    """
    rank, rate = int(options["rank"]), float(options["rate"])
    weights = task.decoder.weights()
    adapted = {w.name for w in weights if rank and w.kind == "linear"}
    learning = [w for w in weights if w.parts and (not rank or w.kind in ("norm", "bias"))]
    numbers = sum(math.prod(w.shape) for w in learning)
    numbers += sum(rank * sum(w.shape) for w in weights if w.name in adapted)
    stored = schemes(task) if options["quantized"] else {}
    rounded = sum(math.prod(w.shape) for w in weights if w.name in stored)
    check_memory(
        METHOD.name,
        _NUMBER_BYTES * numbers + _ROUNDED_BYTES * rounded,
        task.device,
        "[options.retrain] rank trains low-rank adapters, which need far less",
    )
    student = Student(task.decoder, {w.name: task.read(w) for w in weights}, schemes=stored)
    trained: dict[str, Trained] = {}
    for weight in learning:
        value = student.floats[weight.name]
        trained[weight.name] = Trained(value.requires_grad_(), rate * _size(value))
    generator = torch.Generator().manual_seed(task.seed)
    for name in sorted(adapted):
        rows, columns = student.floats[name].shape
        left = torch.zeros(rows, rank, device=task.device)
        right = (torch.randn(rank, columns, generator=generator) / math.sqrt(rank)).to(task.device)
        student.adapters[name] = left.requires_grad_(), right.requires_grad_()
        trained[f"{name}/left"] = Trained(left, rate * _size(student.floats[name]))
        trained[f"{name}/right"] = Trained(right, rate / math.sqrt(rank))
    return student, trained


def _size(value: Tensor) -> float:
    """Root mean square; of zeros (a bias before training) a hundredth."""
    return float(value.detach().square().mean().sqrt()) or 0.01


def schemes(task: PruneTask) -> dict[str, Scheme]:
    """The scheme of each weight that the recipe quantizes."""
    return {name: scheme for name, scheme in task.schemes().items() if scheme is not None}


def _output_loss(
    student: Student, teacher: Teacher, reference: Tensor, x: Tensor, *, tokens: Tensor, options: Options
) -> Tensor:
    """Mean over tokens of the divergences that the options ask for, times T², and of the next-token loss.

    ``reference`` and ``x``, (sequences, length, hidden), are the inputs of the teacher's and the student's final norm.
    """
    decoder = student.decoder
    temperature, forward, reverse = (float(options[name]) for name in ("temperature", "forward", "reverse"))
    truth = float(options["truth"])
    following = torch.full((*tokens.shape, 1), _NONE, device=tokens.device)
    following[:, :-1, 0] = tokens[:, 1:]
    head = student.values(decoder.head.weight)  # made once

    def values(weight: Weight) -> Tensor:
        return head if weight is decoder.head.weight else student.values(weight)

    def piece(reference: Tensor, x: Tensor, following: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = (teacher.logits(reference) / temperature).log_softmax(-1)
        logits = network.head_forward(decoder, values, x)
        found = (logits / temperature).log_softmax(-1)
        total = x.new_zeros(())
        if forward:
            total = total + forward * summed(functional.kl_div(found, wanted, reduction="none", log_target=True))
        if reverse:
            total = total + reverse * summed(functional.kl_div(wanted, found, reduction="none", log_target=True))
        total = total * temperature**2
        if truth:
            total = total + truth * functional.cross_entropy(
                logits, following[:, 0], reduction="sum", ignore_index=_NONE
            )
        return total

    return mean_over_tokens(piece, reference, x, following, size=max(1, LOGITS // decoder.vocab_size))


def _distance(x: Tensor, stream: Activations, sequences: NDArray[np.int64]) -> Tensor:
    """‖student − original‖² / ‖original‖² of residual streams (sequences, length, hidden)."""
    wanted = stream.read_some(sequences)
    return summed((x - wanted).square()) / summed(wanted.square())


def teach(task: PruneTask, tokens: NDArray[np.int64], points: list[int]) -> Teacher:
    """Run the original on the text once; its streams stay in the step's folder, after a kill too."""
    decoder = task.original_decoder
    last = len(decoder.layers)
    kept = task.kept_tokens
    ids = tokens if kept is None else kept[tokens]
    shape = (*tokens.shape, decoder.hidden_size)
    asked = {"points": sorted({*points, last}), "shape": list(shape)}
    if not _has_streams(task.folder, asked):
        _compute_streams(task, ids, {*points, last})
        files = hashes(task.folder, [_stream_file(task.folder, point).name for point in asked["points"]])
        write_sealed_json(task.folder / _TEACHER_FILE, asked | {"files": files})
    streams = {point: Activations(_stream_file(task.folder, point), shape, task.device) for point in {*points, last}}
    head = decoder.head
    used = (*decoder.head_weights(), head.weight)
    read = held(task.read_original, used)

    def values(weight: Weight) -> Tensor:
        value = read(weight)
        return value if kept is None or weight not in (head.weight, head.bias) else value[torch.from_numpy(kept)]

    cut = {weight.name: values(weight) for weight in used}
    return Teacher(decoder, lambda weight: cut[weight.name], streams, last)


def _has_streams(folder: Path, asked: Mapping[str, object]) -> bool:
    """Whether a killed run left all streams that are asked for, complete."""
    path = folder / _TEACHER_FILE
    if not path.is_file():
        return False
    try:
        found = read_sealed_json(path)
        if any(found.get(name) != value for name, value in asked.items()):
            return False
        check_hashes(folder, found["files"])
    except DamagedError as error:
        _log.warning("%s: the original's streams are damaged (%s); computing them anew", folder, error)
        return False
    return True


def _compute_streams(task: PruneTask, ids: NDArray[np.int64], points: set[int]) -> None:
    decoder, checkpoint = task.original_decoder, task.original
    with (
        embedded(checkpoint, decoder, ids, task.folder / "teacher.f32", task.device) as stream,
        task.progress(len(decoder.layers), "original's streams", " layers") as advance,
    ):
        for index, layer in enumerate(decoder.layers):
            pass_layer(index, decoder, held(values_of(checkpoint, task.device), layer_weights(layer)), stream)
            if index + 1 in points:
                copy = Activations(_stream_file(task.folder, index + 1), stream.shape)
                for batch in stream.batches():
                    copy.write(batch, stream.read(batch))
            advance(1)


def _stream_file(folder: Path, point: int) -> Path:
    return folder / f"teacher-{point}.f32"


def _tensors(task: PruneTask, values: Mapping[str, NDArray[np.float32]], *, keep: bool) -> list[NewTensor]:
    """The checkpoint's tensors with the trained values, in the dtype that they have (``keep``) or float32.

    Rows that two weights share (a tied head) are taken from one of them; tensors that no weight uses are left out.
    """
    pieces: dict[str, list[tuple[Part, NDArray[np.float32]]]] = {}
    for weight in task.decoder.weights():
        start = 0
        for number, part in enumerate(weight.parts):
            count, found = part.stop - part.start, pieces.setdefault(part.tensor, [])
            if (rows := values.get(weight.name)) is not None:
                own = rows[number::2] if weight.interleaved else rows[start : start + count]
                found.append((part, own - np.float32(weight.plus)))
            start += count
    return [_tensor(task, name, parts, keep=keep) for name, parts in pieces.items()]


def _tensor(task: PruneTask, name: str, parts: list[tuple[Part, NDArray[np.float32]]], *, keep: bool) -> NewTensor:
    stored = task.checkpoint.tensors[name]
    if not parts:
        return copied(stored)

    @cache  # while this tensor is written, and no longer
    def whole() -> NDArray[np.float32]:
        values = stored.rows(0, stored.shape[0])
        for part, rows in parts:
            matrix = values if part.index is None else values[part.index]
            used = matrix.T if part.transposed else matrix
            used[part.start : part.stop] = rows
        return values

    def rows(start: int, stop: int) -> NDArray[np.float32]:
        found = whole()[start:stop]
        if stop == stored.shape[0]:
            whole.cache_clear()
        return found

    return NewTensor(name, stored.dtype if keep else "F32", stored.shape, rows)


def _config(task: PruneTask, options: Options) -> Mapping[str, object]:
    """The config; its dtype is what the weights are stored in."""
    config = task.checkpoint.config
    key = next((key for key in ("dtype", "torch_dtype") if key in config), None)
    return {**config, key: "float32"} if options["quantized"] and key else config


def check(task: PruneTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    if not sum(float(options[name]) for name in ("forward", "reverse", "truth")) > 0:
        raise InputError("[options.retrain] forward, reverse and truth are all 0: there is nothing to learn; raise one")
    ours, theirs = task.decoder, task.original_decoder
    if float(options["hidden"]) and ours.hidden_size != theirs.hidden_size:
        raise InputError(
            f"[options.retrain] hidden = {options['hidden']}: the pruned model has hidden size {ours.hidden_size} and "
            f"the original {theirs.hidden_size}, which cannot be compared; set it to 0"
        )


def check_order(changed: Set[Size], options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    if float(options["hidden"]) and "hidden" in changed:
        raise InputError(
            f"[options.retrain] hidden = {options['hidden']} compares residual streams with the original's, and the "
            "step hidden before it changes their size; set it to 0"
        )
    if changed <= {"vocabulary"} and not options["quantized"] and not float(options["truth"]):
        before = "only vocabulary" if changed else "no step"
        raise InputError(
            f"retrain has nothing to learn: {before} comes before it in `prune`, so the model's logits are still the "
            "original's; put it after the steps that change them, or set truth or quantized in [options.retrain]"
        )


def _compared(task: PruneTask, options: Options) -> list[tuple[int, int]]:
    """Which streams are compared, as numbers of layers before them, in the student and in the original."""
    if not float(options["hidden"]):
        return []
    ours, theirs = task.decoder, task.original_decoder
    count = min(max(1, int(options["hidden_layers"])), len(ours.layers))
    passed_here = [math.ceil((i + 1) * len(ours.layers) / count) for i in range(count)]
    return [(here, math.ceil(here * len(theirs.layers) / len(ours.layers))) for here in passed_here]


METHOD = Pruning(
    "retrain",
    run,
    declared={
        "steps": whole_number(400),
        "batch": whole_number(8),
        "rate": Option(0.02, above=0, most=100),
        "forward": Option(1.0, least=0, most=MANY),
        "reverse": Option(0.0, least=0, most=MANY),
        "temperature": Option(1.0, above=0, most=1000),
        "truth": Option(0.0, least=0, most=MANY),
        "hidden": Option(0.0, least=0, most=MANY),
        "hidden_layers": whole_number(4),
        "rank": whole_number(0, 0),
        "quantized": Option(False),
    },
    keeps_shapes=True,
    check=check,
    check_order=check_order,
    on_graphs=GraphPruning(
        "retrain",
        recovery.retrain,
        declared={
            "steps": whole_number(400),
            "batch": whole_number(64),
            "samples": whole_number(1024, 2),
            "rate": Option(0.02, above=0, most=100),
            "loss": Option("square", choices=("square", "kl")),
            "temperature": Option(1.0, above=0, most=1000),
            "whiten": Option(False),
            **lessons.OPTIONS,
        },
        trains=True,
        check=recovery.check,
    ),
)
