"""Distillation: train scales, norms and, if asked, the rounding until the logits are nearest to the original's.

The loss is the mean over tokens of KL(teacher ‖ student), the teacher being the model in full precision (as LLM-QAT
does, Liu et al. 2023, but on given text). ``train = "scales"`` moves scales, norm gains and biases while codes stay
(the end-to-end phase of EfficientQAT, Chen et al. 2024); ``train = "rounding"`` moves the codes too, straight through
the rounding. Adam with a warm-up and a cosine to zero. A share of the text is held out: the state with the least loss
on it is stored, which is the start when no later one was better.

The outputs of the teacher's last layer are read from disk, its logits are computed a few tokens at a time, and each
layer of the student is dequantized when it is computed, forward and again backward. So memory is that of the codes, of
what is trained (4 bytes each, gradient and Adam's two moments 12 more: 16 bytes a weight for "rounding", 16 bytes a
block for "scales"), of the largest weight in float32 (student's, gradient, and the teacher's when it is the head) and
of the activations of one batch. The state is saved regularly, so that a killed run continues and ends with the same
bytes.

What it brings: ``int4-fast``, which is gptq and then this, beside ``gptq, 4 bits, block 128`` in the results of
``benchmarks/accuracy.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.methods.kinds import Repair, unchanged
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.methods.tasks import ModelTask, Schemes
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.streams.learned import LearnedCodes, split, why_too_large
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

_STATE_FILE = "distill.state"
_TRAINS = ("rounding", "scales")
_TRAINED_BYTES = 16  # a trained number, its gradient and Adam's two moments


@dataclass
class Student:
    """The model that is trained: weights in codes, float ones that are trained, and float ones that are not."""

    decoder: Decoder
    coded: dict[str, LearnedCodes] = field(default_factory=dict)
    floats: dict[str, Tensor] = field(default_factory=dict)
    fixed: dict[str, Tensor] = field(default_factory=dict)

    def values(self, weight: Weight) -> Tensor:
        """See :data:`~edgepress.exporter.model.operations.Values`."""
        name = owner(self.decoder, weight).name
        if name in self.coded:
            return self.coded[name].dequantize()
        return self.floats[name] if name in self.floats else self.fixed[name]

    def result(self) -> dict[str, Tensor]:
        """What has been learned, as it will be stored: a copy that further training does not change."""
        found = {f"{name}/data": value.detach().clone() for name, value in self.floats.items()}
        for name, learned in self.coded.items():
            codes = learned.round()
            found |= {f"{name}/codes": codes.codes, f"{name}/scales": codes.scales}
        return found

    def keep_in_range(self) -> None:
        """Clip what was learned to the range that can be stored."""
        for learned in self.coded.values():
            learned.keep_in_range()

    def forward(self, tokens: Tensor, rotaries: dict[str, operations.Rotary]) -> Tensor:
        """Tokens (sequences, length) → what goes into the final norm, (sequences, length, hidden).

        A layer keeps its input only, and is computed again in the backward pass.
        """
        return passed(self.decoder, self.values, self._embed(tokens), rotaries)[len(self.decoder.layers)]

    def _embed(self, tokens: Tensor) -> Tensor:
        """Embed the tokens, with only the rows of the tables that occur."""
        ids, places = torch.unique(tokens, return_inverse=True)

        def looked_up(table: Weight) -> Tensor:
            rows = torch.where(ids < table.shape[0], ids, 0)
            return self.coded[table.name].dequantize(rows) if table.name in self.coded else self.values(table)[rows]

        rows = {weight.name: looked_up(weight) for weight in self.decoder.tables}
        return network.embed(
            self.decoder, lambda weight: rows[weight.name] if weight.name in rows else self.values(weight), places
        )


def divergence(
    decoder: Decoder, teacher: operations.Values, student: operations.Values, reference: Tensor, x: Tensor, *, most: int
) -> Tensor:
    """Mean over tokens of KL(teacher ‖ student) of the next token, in nats.

    ``reference`` and ``x``, (…, hidden), are what goes into the final norm of each; ``most`` logits are computed at
    once, and those of the student again in the backward pass when that takes more than one piece.
    """
    head = student(decoder.head.weight)  # dequantized once

    def piece(reference: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = network.head_forward(decoder, teacher, reference).log_softmax(-1)
        found = network.head_forward(
            decoder, lambda weight: head if weight is decoder.head.weight else student(weight), x
        ).log_softmax(-1)
        return summed(functional.kl_div(found, wanted, reduction="none", log_target=True))

    return mean_over_tokens(piece, reference, x, size=max(1, most // decoder.vocab_size))


def run(task: ModelTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Repair`: the ``model`` step.

    Raises:
        InputError: there is only one calibration sequence.

    """
    trained_on, held_out = split(len(task.tokens), task.seed, METHOD.name)
    student = make_student(task, rounding=options["train"] == "rounding")
    training = make_training(task, student, held_out, float(options["rate"]), float(options["rounding_rate"]))
    steps, batch = int(options["steps"]), int(options["batch"])
    training.run(trained_on, steps=steps, batch=batch, progress=task.progress, label="distilling")
    for weight in task.decoder.weights():
        if weight.name in student.coded:
            start = student.coded[weight.name].start
            codes, scales = (training.best[f"{weight.name}/{part}"] for part in ("codes", "scales"))
            task.put(weight, Codes(codes, scales, start.zero_points, start.scheme).pack())
        elif weight.name in student.floats:
            task.put(weight, training.best[f"{weight.name}/data"].cpu().numpy())
    training.state_file.unlink()


def make_student(task: ModelTask, *, rounding: bool) -> Student:
    """The model as it is stored so far, with what will be trained."""
    student = Student(task.decoder)
    for weight in task.decoder.weights():
        found = task.stored(weight)
        if isinstance(found, Codes):
            student.coded[weight.name] = LearnedCodes.of(found, task.full(weight) if rounding else None)
        elif weight.kind in ("norm", "bias"):
            student.floats[weight.name] = found.requires_grad_()
        else:
            student.fixed[weight.name] = found
    return student


def make_training(
    task: ModelTask, student: Student, held_out: NDArray[np.int64], rate: float, rounding_rate: float
) -> Training:
    """The training of the student: its loss, parameters and text."""
    rotaries = network.rotaries(task.decoder, task.tokens.shape[1], task.device)
    kept = (*task.decoder.head_weights(), task.decoder.head.weight)
    teacher = {weight.name: task.read(weight) for weight in kept}
    trained: dict[str, Trained] = {}
    for name, learned in student.coded.items():
        trained[f"{name}/factors"] = Trained(learned.factors, rate)
        if learned.positions is not None:
            trained[f"{name}/positions"] = Trained(learned.positions, rounding_rate)
    for name, value in student.floats.items():
        trained[f"{name}/data"] = Trained(value, rate * float(value.detach().abs().mean()))

    def loss(sequences: NDArray[np.int64]) -> Tensor:
        tokens = torch.from_numpy(task.tokens[sequences]).to(task.device)
        reference = task.teacher.read_some(sequences)
        x = student.forward(tokens, rotaries)
        return divergence(task.decoder, lambda w: teacher[w.name], student.values, reference, x, most=LOGITS)

    return Training(
        name=METHOD.name,
        trained=trained,
        loss=loss,
        snapshot=student.result,
        held_out=held_out,
        length=task.tokens.shape[1],
        state_file=task.store.directory / _STATE_FILE,
        seed=task.seed,
        settle=student.keep_in_range,
    )


def why_left_out(decoder: Decoder, options: Options) -> str:
    """See :class:`~edgepress.exporter.methods.kinds.Repair`: the whole model is trained."""
    return why_too_large(METHOD.name, decoder.weights(), int(options["most_weights"]))


def check(decoder: Decoder, schemes: Schemes, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Repair`: refuses what will not fit into memory."""
    numbers, rounding = 0, options["train"] == "rounding"
    for weight in decoder.weights():
        scheme = schemes[weight.name]
        if scheme is not None:
            rows, columns = weight.shape
            numbers += rows * (scheme.blocks(columns) + (columns if rounding else 0))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    advice = 'train = "scales" needs far less' if rounding else "a smaller model needs less"
    check_memory(METHOD.name, _TRAINED_BYTES * numbers, device, advice)


METHOD = Repair(
    "distill",
    unchanged,
    why_left_out=why_left_out,
    check=check,
    model=run,
    declared={
        "most_weights": whole_number(0, 0, 1 << 53),
        "instead": Option(""),
        "steps": whole_number(400),
        "batch": whole_number(8),
        "train": Option("rounding", choices=_TRAINS),
        "rate": Option(0.01, above=0, most=100),
        "rounding_rate": Option(0.01, above=0, most=100),
    },
)
