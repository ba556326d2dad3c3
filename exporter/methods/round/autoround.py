"""AutoRound: learn the rounding and the scales of a layer together, by the layer's output (Cheng et al. 2023).

The loss is the mean squared error of the layer's output against the full-precision model's, the input being the output
of the compressed layers before it. As in the paper ("Optimize Weight Rounding via Signed Gradient Descent for the
Quantization of LLMs"), gradients go straight through the rounding and the best state is kept; here that is the one with
the least loss on held-out text, which is the start when no later one was better. Scales are multiplied by a factor, as
by the paper's α and β.

Steps are Adam's on positions rather than the paper's sign descent on offsets; how near they come to the best of all
roundings is in tests/exporter/methods/test_autoround.py. It starts from GPTQ; what it brings: ``autoround, …`` beside
``gptq, …`` in the results of ``benchmarks/accuracy.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.arrays.parallel import all_cores, one_thread
from edgepress.exporter.methods.kinds import LayerMethod
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.methods.tasks import LayerTask
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Decoder, layer_linears
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.streams.learned import BETAS, LearnedCodes, draw, pieces, share_of_rate, split, why_too_large

_CHECKS = 4  # how often the loss on the held-out sequences is computed


def tune(task: LayerTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.LayerMethod`.

    Raises:
        InputError: there is only one calibration sequence.

    """
    with all_cores():
        _tune(task, options)


def _tune(task: LayerTask, options: Options) -> None:
    steps, batch = int(options["steps"]), int(options["batch"])
    trained, held_out = split(task.inputs.shape[0], task.index, METHOD.name)
    learned = {
        linear.weight.name: LearnedCodes.of(task.codes[linear.weight.name], task.full(linear.weight))
        for linear in task.linears()
        if (scheme := task.scheme(linear.weight)) is not None and scheme.method == METHOD.name
    }
    rates = [float(options["rate"]), float(options["rounding_rate"])]
    factors = [each.factors for each in learned.values()]
    positions = [each.positions for each in learned.values() if each.positions is not None]
    optimizer = torch.optim.Adam([{"params": factors}, {"params": positions}], betas=BETAS)
    with torch.no_grad():
        least = squared_error(task, learned, held_out)
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share_of_rate(step, steps)
        optimizer.zero_grad()
        with torch.enable_grad():
            squared_error(task, learned, draw(trained, batch, (task.index, step)))
        optimizer.step()
        for each in learned.values():
            each.keep_in_range()
        if (step + 1) * _CHECKS // steps != step * _CHECKS // steps:
            with torch.no_grad():
                found = squared_error(task, learned, held_out)
            if found < least:
                least = found
                task.codes |= {name: each.round() for name, each in learned.items()}


def squared_error(task: LayerTask, learned: dict[str, LearnedCodes], sequences: NDArray[np.int64]) -> float:
    """Mean squared error of the layer's output for some sequences; adds its gradients when they are enabled."""
    if task.reference_outputs is None:
        raise ValueError("a layer method needs the full-precision outputs")
    total = 0.0

    def values(weight: Weight) -> Tensor:
        return learned[weight.name].dequantize() if weight.name in learned else task.values(weight)

    for some in pieces(sequences, task.inputs.shape[1]):
        y = network.layer_forward(task.layer, values, task.inputs.read_some(some), task.rotaries)
        with one_thread():  # whose sum does not depend on the number of cores
            error = functional.mse_loss(y, task.reference_outputs.read_some(some)) * (len(some) / len(sequences))
        if torch.is_grad_enabled():
            error.backward()  # type: ignore[no-untyped-call]
        total += float(error.detach())
    return total


def why_left_out(decoder: Decoder, options: Options) -> str:
    """See :class:`~edgepress.exporter.methods.kinds.LayerMethod`: what it trains are the projections of layers."""
    weights = (linear.weight for layer in decoder.layers for linear in layer_linears(layer))
    return why_too_large(METHOD.name, weights, int(options["most_weights"]))


METHOD = LayerMethod(
    "autoround",
    tune,
    why_left_out=why_left_out,
    declared={
        "most_weights": whole_number(0, 0, 1 << 53),
        "tokens": whole_number(0, 0),
        "start": Option("gptq"),
        "steps": whole_number(200),
        "batch": whole_number(8),
        "rate": Option(0.01, above=0, most=100),
        "rounding_rate": Option(0.01, above=0, most=100),
    },
)
