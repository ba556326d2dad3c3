"""Quantization-aware training through the rounding that ships, with the float model as teacher.

The graph that ships is trained as it is: its QuantizeLinear and DequantizeLinear, or its blocks of codes, let gradients
pass straight through rounding (Bengio et al. 2013; for scales Esser et al. 2020). Trained are the weights behind their
codes, all scales and the biases, by distillation: the divergence of logits or the squared error of outputs
(:mod:`~edgepress.exporter.streams.distilling`), and with ``features`` the distance of sums inside. It needs no labels.
Where samples are few, changed ones and values inside (``features``) are further things to learn from
(:mod:`~edgepress.exporter.methods.narrower.taught.lessons`). The best state on samples held out is kept, which is the
start where none was better.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgepress.exporter.methods.kinds import GraphMethod
from edgepress.exporter.methods.narrower.taught.lessons import OPTIONS, make_lessons, sums_inside
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.streams.distilling import Match, Student, distil
from edgepress.exporter.streams.shipping import Bias, BlockWeight, ChannelWeight, Range, Shipped
from edgepress.exporter.streams.shipping_task import ShippingTask
from edgepress.exporter.streams.training import Trained


def opened(shipped: Shipped, rate: float, scale_rate: float) -> dict[str, Trained]:
    """Everything of ``shipped`` that can learn, by name, with its rate; weights at a share of their step."""
    trained: dict[str, Trained] = {}
    for name, weight in shipped.weights.items():
        if isinstance(weight, ChannelWeight):
            step = float(weight.scale.mean())
            rates, parts = {"latent": rate * step, "factor": scale_rate}, weight.open(latent=True)
        else:
            rates, parts = {"positions": rate, "factors": scale_rate}, weight.open()
        trained |= {f"{name}/{part}": Trained(value, rates[part]) for part, value in parts.items()}
    trained |= {f"{one.names[0]}/range": Trained(one.open(), scale_rate) for one in shipped.ranges}
    for name, bias in shipped.biases.items():
        bias.latent = bias.latent.clone().requires_grad_()
        trained[f"{name}/bias"] = Trained(bias.latent, scale_rate * max(float(bias.latent.detach().abs().mean()), 1e-4))
    return trained


def _run(task: ShippingTask, options: Options) -> None:
    shipped = task.shipped
    trained = opened(shipped, float(options["rate"]), float(options["scale_rate"]))
    learners: list[ChannelWeight | BlockWeight | Range] = [*shipped.weights.values(), *shipped.ranges]

    def settle() -> None:
        for one in learners:
            one.settle()

    steps, matches = int(options["steps"]), list(task.matches)
    lessons = make_lessons(
        task.feeds,
        free=task.network.free_batch,
        name=METHOD.name,
        steps=steps,
        batch=int(options["batch"]),
        options=options,
        seed=task.seed,
    )
    if weight := float(options["features"]):
        feed, shown = lessons.checked[0], shipped.shown()
        inside = sums_inside(task.teacher, shipped.network, feed, int(options["features_at"]), METHOD.name)
        matches += [Match(shown.get(name, name), name, "square", weight / len(inside)) for name in inside]
    training = distil(
        Student(shipped.network, trained, lambda: shipped, _copies({k: t.value for k, t in trained.items()}), settle),
        task.teacher,
        lessons.feeds,
        matches,
        name=METHOD.name,
        state_file=task.folder / "qat.safetensors",
        steps=steps,
        batch=lessons.each,
        checked=lessons.checked,
        progress=task.progress,
        seed=task.seed,
    )
    with torch.no_grad():
        for name, one in trained.items():
            one.value.copy_(training.best[name])
    kept: list[ChannelWeight | BlockWeight | Range | Bias] = [*learners, *shipped.biases.values()]
    for learner in kept:
        learner.keep()
    training.state_file.unlink()
    first, last = training.curve[0][2], training.least
    task.notes.append(f"qat: the loss on held-out samples went from {first:.4g} to {last:.4g}")


def _copies(values: dict[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: value.detach().clone() for name, value in values.items()}


METHOD = GraphMethod(
    name="qat",
    place="after",
    run=_run,
    declared={
        "steps": whole_number(200),
        "batch": whole_number(32),
        "rate": Option(0.003, above=0, most=100),
        "scale_rate": Option(0.001, above=0, most=100),
        **OPTIONS,
    },
)
