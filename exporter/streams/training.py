"""Training by gradients, shared by the methods that train a whole model: steps, checks on held-out text, a saved state.

Adam with a warm-up and a cosine to zero. A share of the sequences is held out: the state with the least loss on it is
kept, which is the start when no later one was better. The state is saved after each check, so that a killed run
continues from it and ends with the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from edgepress.errors import InputError
from edgepress.exporter.arrays.parallel import all_cores, each, one_thread
from edgepress.exporter.arrays.sealed import Arrays, DamagedError, load_sealed, save_sealed
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder, Layer, layer_weights
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.streams.learned import BETAS, draw, pieces, share_of_rate
from edgepress.finite import REMEDY, check_figure
from edgepress.terminal.progress import Progress

CHECKS = 8  # how often the loss on the held-out sequences is computed
LOGITS = 1 << 23  # logits computed at once
_SMALL = 1 << 24  # trained numbers: up to here a core has a batch's part for itself
_KEPT_BYTES = 1 << 28  # of activations that are kept for the backward pass

R = TypeVar("R")

_log = logging.getLogger("edgepress.calibration")


@dataclass(frozen=True)
class Trained:
    """Numbers that are trained, and their learning rate."""

    value: Tensor
    rate: float


@dataclass
class Training:
    """One training: its loss, the numbers that are trained, and the best state so far.

    ``loss(sequences)`` is the mean loss, in nats a token, over calibration sequences given by index; ``snapshot()``
    copies what would be kept of the present state, by name; ``settle()`` clips trained numbers to their range after
    each step. ``best`` is the snapshot with the least loss on ``held_out``; ``curve`` has, for every check, the
    steps done, the mean loss on what was trained on since the last one (NaN at the start) and that on ``held_out``.
    """

    name: str
    trained: Mapping[str, Trained]
    loss: Callable[[NDArray[np.int64]], Tensor]
    snapshot: Callable[[], dict[str, Tensor]]
    held_out: NDArray[np.int64]
    length: int  # of a sequence, in tokens
    state_file: Path
    seed: int
    settle: Callable[[], None] = lambda: None
    best: dict[str, Tensor] = field(default_factory=dict)
    least: float = math.inf
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    _seen: list[float] = field(default_factory=list)  # losses of the steps since the last check

    def __post_init__(self) -> None:
        groups = [{"params": [one.value], "lr": one.rate} for one in self.trained.values()]
        self.optimizer = torch.optim.Adam(groups, betas=BETAS)

    def run(self, trained_on: NDArray[np.int64], *, steps: int, batch: int, progress: Progress, label: str) -> None:
        """Take ``steps`` steps of ``batch`` sequences, from where a killed run saved its state.

        The state file stays: whoever has put ``best`` where it is safe removes it.
        """
        with torch.enable_grad(), all_cores(), progress(steps, label, " steps") as advance:
            begun = self._begin()
            advance(begun)
            for step in range(begun, steps):
                self.step(draw(trained_on, batch, (self.seed, step)), share_of_rate(step, steps))
                advance(1)
                if (step + 1) * CHECKS // steps != step * CHECKS // steps:
                    self._check(step + 1)

    def step(self, sequences: NDArray[np.int64], share: float) -> None:
        """Learn from some sequences, with a ``share`` of the learning rate."""
        for group, one in zip(self.optimizer.param_groups, self.trained.values(), strict=True):
            group["lr"] = one.rate * share
        self.optimizer.zero_grad()
        values = [one.value for one in self.trained.values()]
        parts = pieces(sequences, self.length)

        def learn(some: NDArray[np.int64]) -> tuple[float, Sequence[Tensor | None]]:
            loss = self.loss(some) * (len(some) / len(sequences))
            return float(loss.detach()), torch.autograd.grad(loss, values, allow_unused=True)

        total = 0.0
        for loss, gradients in self._apart(learn, parts):  # in their order, so that sums do not depend on the cores
            total += loss
            for value, gradient in zip(values, gradients, strict=True):
                if gradient is not None:
                    # not in place: the gradients of two values may be one tensor
                    value.grad = gradient if value.grad is None else value.grad + gradient
        self.optimizer.step()
        self.settle()
        self._seen.append(total)

    def _apart(self, work: Callable[[NDArray[np.int64]], R], parts: list[NDArray[np.int64]]) -> Iterable[R]:
        """``work`` of every part: of a small model on a core each, of a larger one by all of torch's threads in turn.

        On small matrices torch's threads wait for each other (a lone part has nothing better); large ones would need
        their gradients once a core.
        """
        device = next(iter(self.trained.values())).value.device
        numbers = sum(one.value.numel() for one in self.trained.values())
        return each(work, parts, device) if numbers <= _SMALL else map(work, parts)

    def _begin(self) -> int:
        """The first step to do: 0, or the one before which a killed run saved its state."""
        if self.state_file.is_file():
            try:
                return self._load(*load_sealed(self.state_file))
            except DamagedError as error:
                _log.warning("%s: the saved state is damaged (%s); beginning anew", self.state_file, error)
        self._check(0)
        return 0

    def _check(self, step: int) -> None:
        """Compute the loss on the held-out sequences, keep the best state, and save it after ``step`` steps."""
        with torch.no_grad():
            some = pieces(self.held_out, self.length)
            losses = self._apart(lambda part: float(self.loss(part)) * len(part), some)
            loss = sum(losses) / len(self.held_out)
        check_figure(loss, f"{self.name}: the loss after {step} steps", f"too large a rate of learning, or {REMEDY}")
        _log.info("%s: loss %.5f on the held-out sequences after %d steps", self.name, loss, step)
        self.curve.append((step, float(np.mean(self._seen)) if self._seen else math.nan, loss))
        self._seen.clear()
        if loss < self.least:
            self.least, self.best = loss, self.snapshot()
        self._save(step)

    def _save(self, step: int) -> None:
        tensors = {name: one.value.detach() for name, one in self.trained.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{index}/{kind}": value for kind, value in moments.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        arrays = {name: value.cpu().numpy() for name, value in tensors.items()}
        save_sealed(self.state_file, arrays, {"step": step, "least": self.least, "curve": self.curve})

    def _load(self, arrays: Arrays, notes: Mapping[str, Any]) -> int:
        device = next(iter(self.trained.values())).value.device
        found = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        with torch.no_grad():
            for name, one in self.trained.items():
                one.value.copy_(found[name])
        state = self.optimizer.state_dict()
        state["state"] = {
            index: {key.rpartition("/")[2]: value for key, value in found.items() if key.startswith(f"adam/{index}/")}
            for index in range(len(self.trained) if notes["step"] else 0)
        }
        self.optimizer.load_state_dict(state)
        self.best = {key.removeprefix("best/"): value for key, value in found.items() if key.startswith("best/")}
        self.least = notes["least"]
        self.curve = [(int(step), float(trained), float(held_out)) for step, trained, held_out in notes["curve"]]
        return int(notes["step"])


def owner(decoder: Decoder, weight: Weight) -> Weight:
    """The weight that is stored: a tied head is the embedding."""
    return decoder.embedding if decoder.tied and weight is decoder.head.weight else weight


def passed(
    decoder: Decoder,
    values: operations.Values,
    x: Tensor,
    rotaries: Mapping[str, operations.Rotary],
    at: Collection[int] = (),
) -> dict[int, Tensor]:
    """Run the layers on the embedded tokens ``x`` (sequences, length, hidden).

    Returns the residual stream after the last layer, and after those of ``at``, by the number of layers passed. Where
    the activations of all layers are too large to be kept, a layer keeps its input only, and is computed again in the
    backward pass.
    """
    found: dict[int, Tensor] = {}
    keep = sum(map(_kept_numbers, decoder.layers)) * 4 * x.shape[0] * x.shape[1] <= _KEPT_BYTES
    for index, layer in enumerate(decoder.layers):
        if keep:
            x = network.layer_forward(layer, values, x, rotaries)
        else:
            x = checkpoint(network.layer_forward, layer, values, x, rotaries, use_reentrant=False)
        if index + 1 in at:
            found[index + 1] = x
    return found | {len(decoder.layers): x}


def _kept_numbers(layer: Layer) -> int:
    """About how many numbers a token leaves in a layer: twice what goes into its projections and comes out of them."""
    return 2 * sum(sum(weight.shape) for weight in layer_weights(layer) if weight.kind == "linear")


def summed(x: Tensor) -> Tensor:
    """Σ x, added up in an order that does not depend on the number of torch's threads."""
    with one_thread():
        return x.sum()


def mean_over_tokens(piece: Callable[..., Tensor], *streams: Tensor, size: int) -> Tensor:
    """``piece``, a sum over tokens, in parts of ``size`` tokens, over the number of tokens.

    ``streams``, (…, columns) each, are what it takes. When there is more than one part, each is computed again in the
    backward pass.
    """
    flat = [stream.flatten(0, -2) for stream in streams]  # (tokens, columns)
    count = len(flat[0])
    if count <= size:
        return piece(*flat) / count
    starts = range(0, count, size)
    parts = [checkpoint(piece, *(x[i : i + size] for x in flat), use_reentrant=False) for i in starts]
    return torch.stack(parts).sum() / count


def check_memory(name: str, needed: int, device: torch.device, advice: str) -> None:
    """Refuse what will not fit, before hours are spent.

    Raises:
        InputError: ``name`` needs more bytes than are free; ``advice`` is what else would do.

    """
    free = free_memory(device)
    if free is not None and needed > free:
        raise InputError(
            f"{name} needs {needed} bytes of memory for what it trains, and {free} are free; {advice}; or close other "
            "programs, or take a larger machine"
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
