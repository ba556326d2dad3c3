"""Distillation: move scales, norms and, if asked, the rounding so that the whole model says what it said before.

The loss is the mean over tokens of KL(teacher ‖ student), the teacher being the model in full precision (as LLM-QAT
does, Liu et al. 2023, but on given text). ``train = "scales"`` moves scales, norm gains and biases while codes stay
(the end-to-end phase of EfficientQAT, Chen et al. 2024); ``train = "rounding"`` moves the codes too, straight through
the rounding. Adam with a warm-up and a cosine to zero. A share of the text is not trained on: the state that is best
on it is what is stored, and that is the start when nothing was better.

What the teacher's layers compute is read from disk, its logits are made a few tokens at a time, and each layer of the
student is dequantized when it is computed, forward and again backward. So memory is that of the codes, of what is
trained (4 bytes each, gradient and Adam's two moments 12 more: 16 bytes a weight for "rounding", 16 bytes a block for
"scales"), of the largest weight in float32 (student's, gradient, and the teacher's when it is the head) and of the
activations of one batch. The state is saved now and then, so that a killed run goes on and ends with the same bytes.

What it brings: ``int4-fast``, which is gptq and then this, beside ``gptq, 4 bits, block 128`` in the results of
``benchmarks/accuracy.py``.
"""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from edgepress.errors import InputError
from edgepress.exporter.calibration import network
from edgepress.exporter.calibration.codes import Codes
from edgepress.exporter.calibration.learned import BETAS, LearnedCodes, draw, pieces, share_of_rate, split
from edgepress.exporter.calibration.tasks import ModelTask
from edgepress.exporter.compress import Options, Recovery, unchanged
from edgepress.exporter.decoder import Decoder, Weight

_CHECKS = 8  # how often the held-out sequences are looked at
_LOGITS = 1 << 23  # logits computed at once
_STATE_FILE = "distill.state"
_TRAINS = ("rounding", "scales")
_TRAINED_BYTES = 16  # a trained number, its gradient and Adam's two moments

_log = logging.getLogger("edgepress.calibration")


@dataclass
class Student:
    """The model that is learning: coded weights, float ones that are trained, and float ones that stay."""

    decoder: Decoder
    coded: dict[str, LearnedCodes] = field(default_factory=dict)
    floats: dict[str, Tensor] = field(default_factory=dict)
    fixed: dict[str, Tensor] = field(default_factory=dict)

    def values(self, weight: Weight) -> Tensor:
        """See :data:`~edgepress.exporter.calibration.network.Values`."""
        name = owner(self.decoder, weight).name
        if name in self.coded:
            return self.coded[name].dequantize()
        return self.floats[name] if name in self.floats else self.fixed[name]

    def result(self) -> dict[str, Codes | Tensor]:
        """What has been learned, as it will be stored; detached from what goes on learning."""
        codes = {name: learned.round() for name, learned in self.coded.items()}
        return {**codes, **{name: value.detach().clone() for name, value in self.floats.items()}}

    def forward(self, tokens: Tensor, rotaries: dict[str, network.Rotary]) -> Tensor:
        """Tokens (sequences, length) → what goes into the final norm, (sequences, length, hidden).

        A layer keeps its input only, and is computed again in the backward pass.
        """
        x = self._embed(tokens)
        for layer in self.decoder.layers:
            rotary = None if layer.attention.rope is None else rotaries[layer.attention.rope]
            x = checkpoint(network.layer_forward, layer, self.values, x, rotary, use_reentrant=False)
        return x

    def _embed(self, tokens: Tensor) -> Tensor:
        """Embed the tokens, with only the rows of the table that occur."""
        table = self.coded.get(self.decoder.embedding.name)
        if table is None:
            return network.embed(self.decoder, self.values, tokens)
        ids, places = torch.unique(tokens, return_inverse=True)
        rows = table.dequantize(ids)
        return network.embed(
            self.decoder, lambda weight: rows if weight is self.decoder.embedding else self.values(weight), places
        )


def owner(decoder: Decoder, weight: Weight) -> Weight:
    """The weight that is stored: a tied head is the embedding."""
    return decoder.embedding if decoder.tied and weight is decoder.head.weight else weight


def divergence(
    decoder: Decoder, teacher: network.Values, student: network.Values, reference: Tensor, x: Tensor, *, most: int
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
        return functional.kl_div(found, wanted, reduction="sum", log_target=True)

    reference, x = reference.flatten(0, -2), x.flatten(0, -2)  # (tokens, hidden)
    size = max(1, most // decoder.vocab_size)
    if len(x) <= size:
        return piece(reference, x) / len(x)
    starts = range(0, len(x), size)
    parts = [checkpoint(piece, reference[i : i + size], x[i : i + size], use_reentrant=False) for i in starts]
    return torch.stack(parts).sum() / len(x)


def run(task: ModelTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.compress.Recovery`: the ``model`` step.

    Raises:
        InputError: an option is out of range, there is only one calibration sequence, or too little memory.

    """
    _check_options(options)
    steps, batch = int(options["steps"]), int(options["batch"])
    trained, held_out = split(len(task.tokens), task.seed, METHOD.name)
    student = make_student(task, rounding=options["train"] == "rounding")
    training = _Training(task, student, held_out, float(options["rate"]), float(options["rounding_rate"]))
    with torch.enable_grad(), task.progress(steps, "distilling", " steps") as advance:
        begun = training.begin()
        advance(begun)
        for step in range(begun, steps):
            training.step(draw(trained, batch, (task.seed, step)), share_of_rate(step, steps))
            advance(1)
            if (step + 1) * _CHECKS // steps != step * _CHECKS // steps:
                training.check(step + 1)
    for weight in task.decoder.weights():
        found = training.best.get(weight.name)
        if found is not None:
            task.put(weight, found.pack() if isinstance(found, Codes) else found.cpu().numpy())
    training.state_file.unlink()


def make_student(task: ModelTask, *, rounding: bool) -> Student:
    """The model as it is stored so far, ready to learn.

    Raises:
        InputError: what will be trained does not fit into memory.

    """
    student = Student(task.decoder)
    _check_memory(task, rounding=rounding)
    for weight in task.decoder.weights():
        found = task.stored(weight)
        if isinstance(found, Codes):
            student.coded[weight.name] = LearnedCodes.of(found, task.full(weight) if rounding else None)
        elif weight.kind in ("norm", "bias"):
            student.floats[weight.name] = found.requires_grad_()
        else:
            student.fixed[weight.name] = found
    return student


class _Training:
    """The student, its optimizer and the best state so far; saved now and then, so that a killed run goes on."""

    def __init__(
        self, task: ModelTask, student: Student, held_out: NDArray[np.int64], rate: float, rounding_rate: float
    ) -> None:
        self.task, self.student, self.held_out = task, student, held_out
        self.rotaries = network.rotaries(task.decoder, task.tokens.shape[1], task.device)
        final, head = task.decoder.final_norm, task.decoder.head
        kept = [final.weight, final.bias, head.weight, head.bias]
        self._teacher = {weight.name: task.read(weight) for weight in kept if weight is not None}
        self.state_file = task.store.directory / _STATE_FILE
        self.best: dict[str, Codes | Tensor] = {}
        self.least = math.inf
        self.trained: dict[str, tuple[Tensor, float]] = {}  # each with its learning rate
        for name, learned in student.coded.items():
            self.trained[f"{name}/factors"] = learned.factors, rate
            if learned.positions is not None:
                self.trained[f"{name}/positions"] = learned.positions, rounding_rate
        for name, value in student.floats.items():
            self.trained[f"{name}/data"] = value, rate * float(value.detach().abs().mean())
        groups = [{"params": [value], "lr": rate} for value, rate in self.trained.values()]
        self.optimizer = torch.optim.Adam(groups, betas=BETAS)

    def step(self, sequences: NDArray[np.int64], share: float) -> None:
        """Learn from some sequences, with a ``share`` of the learning rate."""
        for group, (_, rate) in zip(self.optimizer.param_groups, self.trained.values(), strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad()
        for some in pieces(sequences, self.task.tokens.shape[1]):
            loss = self.loss(some) * (len(some) / len(sequences))
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for learned in self.student.coded.values():
            learned.keep_in_range()

    def loss(self, sequences: NDArray[np.int64]) -> Tensor:
        """Mean divergence over some sequences."""
        tokens = torch.from_numpy(self.task.tokens[sequences]).to(self.task.device)
        reference = self.task.teacher.read_some(sequences)
        x = self.student.forward(tokens, self.rotaries)
        return divergence(
            self.task.decoder, lambda w: self._teacher[w.name], self.student.values, reference, x, most=_LOGITS
        )

    def check(self, step: int) -> None:
        """Look at the held-out sequences, keep what is best, and save the state after ``step`` steps."""
        with torch.no_grad():
            some = pieces(self.held_out, self.task.tokens.shape[1])
            loss = sum(float(self.loss(part)) * len(part) for part in some) / len(self.held_out)
        _log.info("distill: KL %.5f on the held-out sequences after %d steps", loss, step)
        if loss < self.least:
            self.least, self.best = loss, self.student.result()
        self._save(step)

    def begin(self) -> int:
        """The first step to do: 0, or the one before which a killed run saved its state."""
        if self.state_file.is_file():
            return self._load()
        self.check(0)
        return 0

    def _save(self, step: int) -> None:
        tensors = {name: value.detach() for name, (value, _) in self.trained.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{index}/{kind}": value for kind, value in moments.items()}
        for name, found in self.best.items():
            parts = {"codes": found.codes, "scales": found.scales} if isinstance(found, Codes) else {"data": found}
            tensors |= {f"best/{name}/{part}": value for part, value in parts.items()}
        partial = self.state_file.with_suffix(".partial")
        notes = json.dumps({"step": step, "least": self.least})
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, {"notes": notes})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self.state_file)

    def _load(self) -> int:
        with safe_open(self.state_file, "pt", device=str(self.task.device)) as file:
            notes = json.loads(file.metadata()["notes"])
            with torch.no_grad():
                for name, (value, _) in self.trained.items():
                    value.copy_(file.get_tensor(name))
            state = self.optimizer.state_dict()
            keys = list(file.keys())
            state["state"] = {
                index: {
                    key.rpartition("/")[2]: file.get_tensor(key) for key in keys if key.startswith(f"adam/{index}/")
                }
                for index in range(len(self.trained) if notes["step"] else 0)
            }
            self.optimizer.load_state_dict(state)
            for name, learned in self.student.coded.items():
                codes, scales = (file.get_tensor(f"best/{name}/{part}") for part in ("codes", "scales"))
                self.best[name] = Codes(codes, scales, learned.start.zero_points, learned.start.scheme)
            self.best |= {name: file.get_tensor(f"best/{name}/data") for name in self.student.floats}
        self.least = notes["least"]
        return int(notes["step"])


def declines(decoder: Decoder, options: Options) -> str:
    """Say why a model larger than the option ``most_weights`` is left alone (0: none is)."""
    weights, most = sum(math.prod(weight.shape) for weight in decoder.weights()), int(options["most_weights"])
    if not 0 < most < weights:
        return ""
    return (
        f"it would train {weights:,} weights, and [options.distill] most_weights is {most:,}; "
        "raise it where there is a GPU, or time"
    )


def _check_options(options: Options) -> None:
    for name in ("steps", "batch", "rate", "rounding_rate"):
        if not float(options[name]) > 0:
            raise InputError(f"[options.distill] {name} must be more than 0, not {options[name]!r}")
    if options["train"] not in _TRAINS:
        raise InputError(f"[options.distill] train must be one of {', '.join(_TRAINS)}, not {options['train']!r}")


def _check_memory(task: ModelTask, *, rounding: bool) -> None:
    """Refuse what will not fit, before hours are spent."""
    numbers = 0
    for weight in task.decoder.weights():
        scheme = task.plan.of(weight).scheme
        if scheme is not None:
            rows, columns = weight.shape
            numbers += rows * (scheme.blocks(columns) + (columns if rounding else 0))
    needed, free = _TRAINED_BYTES * numbers, free_memory(task.device)
    if free is not None and needed > free:
        advice = 'train = "scales" needs far less, ' if rounding else ""
        raise InputError(
            f"distill needs {needed} bytes of memory for what it trains, and {free} are free; {advice}close other "
            "programs or take a larger machine"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had, or None when the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


METHOD = Recovery(
    "distill",
    unchanged,
    declines=declines,
    model=run,
    options={"most_weights": 0, "steps": 400, "batch": 8, "train": "rounding", "rate": 0.01, "rounding_rate": 0.01},
)
