"""How long an export will take here, and how much memory: an estimate, from speeds that are measured when it is asked.

Every part is an amount of work, which the plan knows, over a speed of this machine now: rounding and hashing on a piece
of made-up weights, and for recipes that calibrate, a layer of the model's own shape forward and backward, and one
projection rounded. That takes a fraction of a second. Text that the model writes itself, and the steps of a recipe that
prunes, are not in it. What the work waits for, such as a slow disk, is not known here.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgepress.exporter.arrays import kernels
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.methods.kinds import (
    LayerMethod,
    LinearMethod,
    Method,
    Repair,
    load_method,
    method_options,
    start_method,
)
from edgepress.exporter.model.description import layer_linears, layer_weights
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.plan.plan import PlannedTensor

_ELEMENTS = 1 << 18  # made-up weights that are rounded: what stream.py rounds at a time
_HASHED = 4 << 20  # bytes
_WORK = 1 << 28  # weights × tokens of the layer that is measured
_MOST_WEIGHTS = 1 << 24  # of that layer; a larger one is measured as a matrix product of this many
_BUFFERS = 24  # float32 copies of a piece of weights that a thread works with
_NUMBER_BYTES = 16  # a number that is trained: itself, its gradient and Adam's two moments


@dataclass(frozen=True)
class Part:
    """One part of an export: estimated seconds, and the speed that they were made of, in words."""

    name: str
    seconds: float
    speed: str


@dataclass(frozen=True)
class Estimate:
    """What an export will take; ``left_out`` says what is not in it."""

    parts: tuple[Part, ...]
    memory_bytes: int
    cores: int
    left_out: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """All parts, one after the other."""
        return sum(part.seconds for part in self.parts)


def estimate(prepared: Prepared, cores: int) -> Estimate:
    """Measure this machine for a moment, and say what exporting what is planned will take on ``cores`` of it."""
    calibrated = prepared.needs_calibration
    parts = [*_rounding(prepared, cores), _hashing(prepared)]
    left_out = []
    if calibrated:
        parts += _calibrating(prepared, cores)
        if not prepared.recipe.calibration.text:
            left_out.append("the text that the model writes itself, as none is given")
    if prepared.recipe.prune:
        left_out.append("the steps of `prune`")
    memory = _resident_bytes() + _ELEMENTS * 4 * _BUFFERS * cores
    if calibrated:
        memory += _calibration_bytes(prepared)
    return Estimate(tuple(parts), memory, cores, tuple(left_out))


def _seconds(work: Callable[[], object]) -> float:
    """The lesser of two goes: the first one also warms up."""
    taken = []
    for _ in range(2):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return max(min(taken), 1e-9)


def _rounded_directly(prepared: Prepared) -> list[PlannedTensor]:
    """Tensors whose method needs their weights alone."""
    return [
        tensor
        for tensor in prepared.plan.tensors
        if tensor.scheme is not None and isinstance(load_method(tensor.scheme.method), Method)
    ]


def _rounding(prepared: Prepared, cores: int) -> list[Part]:
    """Tensors that are rounded from the weights alone, each scheme at its own speed."""
    kernels.load(prepared.plan.parameters)
    amounts: dict[Scheme, int] = {}
    for tensor in _rounded_directly(prepared):
        if tensor.scheme is not None:
            amounts[tensor.scheme] = amounts.get(tensor.scheme, 0) + math.prod(tensor.weight.shape)
    seconds = 0.0
    for scheme, amount in amounts.items():
        method = load_method(scheme.method)
        if isinstance(method, Method):
            columns = prepared.decoder.hidden_size
            count = max(1, min(_ELEMENTS, amount) // columns)
            rows = np.random.default_rng(0).standard_normal((count, columns), np.float32)
            seconds += _seconds(partial(method.quantize, rows, scheme, None)) / rows.size * amount
    if not seconds:
        return []
    speed = f"{sum(amounts.values()) / seconds / 1e6:.0f} million weights a second and core"
    return [Part("rounding", seconds / cores, speed)]


def _hashing(prepared: Prepared) -> Part:
    """The checkpoint is hashed, and the bundle when it is read back."""
    piece = bytes(_HASHED)
    each = _seconds(lambda: hashlib.sha256(piece).digest()) / _HASHED
    return Part(
        "hashing", each * (prepared.plan.bytes_before + prepared.plan.data_bytes), f"{1e-6 / each:.0f} MB a second"
    )


def _calibrating(prepared: Prepared, cores: int) -> list[Part]:
    """Layers that are run, projections that are rounded with their inputs, and training."""
    from edgepress.exporter.arrays.parallel import one_thread

    with one_thread():
        forward, training = _layer_speeds(prepared)
        projections = _projections(prepared, cores)
    settings, plan = prepared.recipe.calibration, prepared.plan
    in_layers = sum(block.mixer.taken() for layer in prepared.decoder.layers for block in layer.blocks)
    tokens = _passed_tokens(prepared)
    parts = [Part("layers", forward * in_layers * tokens / cores, f"{1e-9 / forward:.1f}·10⁹ weight·tokens a second")]
    parts += projections
    for name in _methods(prepared):
        method = load_method(name)
        if not isinstance(method, LayerMethod | Repair):
            continue
        options = method_options(method, prepared.recipe)
        if "steps" in options and "batch" in options:
            whole = isinstance(method, Repair) and method.model is not None
            seen = float(options["steps"]) * float(options["batch"]) * settings.length
            # A whole model is compared with a teacher's logits, and computed again where activations are not kept.
            each = training + forward if whole else training
            seconds = each * (plan.parameters if whole else in_layers) * seen / cores
            parts.append(Part(name, seconds, f"{1e-9 / each:.2f}·10⁹ weight·tokens a second and core"))
    return parts


def _passed_tokens(prepared: Prepared) -> int:
    """Tokens that pass every layer: once to be rounded on, again where layers are learned, and in full precision where
    something learns.
    """
    from edgepress.exporter.learn.calibration.run import layers_text, wanted_text

    methods = [load_method(name) for name in _methods(prepared)]
    passes = 2 if any(isinstance(method, LayerMethod) for method in methods) else 1
    learns = any(not isinstance(method, Method | LinearMethod) for method in methods)
    return passes * layers_text(prepared).tokens + (wanted_text(prepared).tokens if learns else 0)


def _methods(prepared: Prepared) -> list[str]:
    """Every method that an export will run on weights, once."""
    return list(dict.fromkeys([*prepared.recipe.before, *prepared.plan.methods, *prepared.recipe.after]))


def _layer_speeds(prepared: Prepared) -> tuple[float, float]:
    """Seconds a weight and token on one core: of a layer forward, and of one that learns."""
    import torch

    from edgepress.exporter.model import network

    decoder, layer = prepared.decoder, prepared.decoder.layers[0]
    weights = {weight.name: weight.shape for weight in layer_weights(layer)}
    numbers = sum(math.prod(shape) for shape in weights.values())
    random = torch.Generator().manual_seed(0)
    if numbers > _MOST_WEIGHTS:
        side = math.isqrt(_MOST_WEIGHTS)
        x, w = torch.randn(16, side, generator=random), torch.randn(side, side, generator=random)
        forward = _seconds(lambda: x @ w) / (16 * side * side)
        return forward, 3 * forward  # forward, and two products in the backward pass
    made = {name: (0.02 * torch.randn(shape, generator=random)).requires_grad_() for name, shape in weights.items()}
    length = prepared.recipe.calibration.length
    count = max(1, min(1024, _WORK // numbers) // length)
    x = torch.randn(count, length, decoder.stream_width, generator=random)
    rotaries = network.rotaries(decoder, length)

    def run() -> torch.Tensor:
        return network.layer_forward(layer, lambda weight: made[weight.name], x, rotaries)

    def learn() -> None:
        torch.autograd.grad(run().square().mean(), list(made.values()), allow_unused=True)

    with torch.no_grad():
        forward = _seconds(run)
    with torch.enable_grad():
        training = _seconds(learn)
    done = sum(block.mixer.taken() for block in layer.blocks) * count * length
    return forward / done, training / done


def _projections(prepared: Prepared, cores: int) -> list[Part]:
    """Projections rounded with their inputs: one for each method is measured, the others are taken to be as fast."""
    import torch

    from edgepress.exporter.arrays.moments import Moments

    amounts: dict[str, float] = {}
    samples: dict[str, tuple[Linear, Scheme]] = {}
    for layer in prepared.decoder.layers:
        for linear in layer_linears(layer):
            scheme = prepared.plan.of(linear.weight).scheme
            if scheme is None:
                continue
            start = start_method(scheme.method, prepared.recipe)
            if isinstance(start, LinearMethod):
                amounts[start.name] = amounts.get(start.name, 0) + math.prod(linear.weight.shape)
                samples.setdefault(start.name, (linear, scheme))
    parts = []
    for name, (linear, scheme) in samples.items():
        method = load_method(name)
        if not isinstance(method, LinearMethod):
            continue
        rows, columns = (min(most, extent) for most, extent in zip((512, 1024), linear.weight.shape, strict=True))
        random = torch.Generator().manual_seed(0)
        moments = Moments(columns)
        moments.add(torch.randn(2 * columns, columns, generator=random))
        weight = 0.02 * torch.randn(rows, columns, generator=random)
        options = method_options(method, prepared.recipe)
        with torch.no_grad():
            each = _seconds(partial(method.quantize, weight, scheme, moments, options))
        speed = f"{weight.numel() / each / 1e6:.1f} million weights a second and core"
        parts.append(Part(name, each / weight.numel() * amounts[name] / cores, speed))
    return parts


def _calibration_bytes(prepared: Prepared) -> int:
    """A layer and its gradients in float32, moments of its widest input, activations, and what is trained."""
    decoder, length = prepared.decoder, prepared.recipe.calibration.length
    layer = max(sum(math.prod(weight.shape) for weight in layer_weights(one)) for one in decoder.layers)
    widest = max(linear.weight.shape[1] for one in decoder.layers for linear in layer_linears(one))
    trained = 0
    for name in _methods(prepared):
        method = load_method(name)
        if isinstance(method, Repair) and method.model is not None and "steps" in method.options:
            trained = prepared.plan.parameters
    logits = min(decoder.vocab_size * max(length, 1024), 1 << 23)
    return 4 * (3 * layer + widest * widest + 32 * 1024 * decoder.hidden_size + 4 * logits) + _NUMBER_BYTES * trained


def _resident_bytes() -> int:
    """The most memory that this process had so far, 0 where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def to_json(found: Estimate) -> dict[str, object]:
    """For ``plan --json``: under ``estimates``, as nothing of it is a measurement of an export."""
    return {
        "seconds": found.seconds,
        "cores": found.cores,
        "memory_bytes": found.memory_bytes,
        "parts": [{"name": part.name, "seconds": part.seconds, "measured_speed": part.speed} for part in found.parts],
        "left_out": list(found.left_out),
    }
