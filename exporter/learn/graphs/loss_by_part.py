"""What each thing that a bundle rounds costs of its loss: what ``edgepress blame`` does of no language model.

Everything that the bundle rounds is rounded in the float graph as it is stored; then one thing at a time is left in
float, and the distance from the float model's outputs falls by what that costs. In graphs of which every value is an
integer, values are rounded too, those that have one scale together; elsewhere weights alone are, whatever kernels round
of what goes into their products. Savings do not add up to the whole: errors meet, and weights that were rounded to
correct the errors of others may lose more when only those others are left in float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from edgepress.bundle.manifest import read_manifest
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.exporter.arrays.parallel import each, torch_threads
from edgepress.exporter.bundle.parities.traced import find_examples
from edgepress.exporter.doors.kinds import Options, find_door
from edgepress.exporter.doors.samples import read_samples
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.interpreter.network import Feed, Hooks, Network, arrays
from edgepress.exporter.learn.graphs.loss import Arrays, Distance, find_distance
from edgepress.exporter.learn.graphs.reopened import Reopened, reopen
from edgepress.processing.feeder import what_is_taken
from edgepress.terminal.progress import Progress, silent
from edgepress.terminal.tables import format_table
from edgepress.whole import whole_number


@dataclass(frozen=True)
class PartLoss:
    """One thing that is rounded: ``saved`` is how much less the bundle loses with it in float, ``nodes`` read it."""

    name: str
    stored_as: str
    bytes: int
    nodes: tuple[str, ...]
    saved: float


@dataclass(frozen=True)
class LossByPart:
    """The loss against the float model in ``unit``, on ``samples``, and what it is made of, worst first.

    ``made_up`` says that the samples were drawn, ``weights_alone`` that activations were not rounded.
    """

    loss: float
    unit: str
    samples: int
    made_up: bool
    weights_alone: bool
    parts: tuple[PartLoss, ...]

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)


def measure_loss_by_part(
    bundle: str | Path,
    model: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    data: Sequence[str | Path] = (),
    samples: int = 16,
    threads: int | None = None,
    progress: Progress = silent,
) -> LossByPart:
    """Leave each thing that ``bundle`` rounds in float, and measure how much less it loses.

    ``model`` is what the bundle was made from, opened as an export opens it; ``data`` has ``samples`` of what it is
    given, drawn ones when empty. The loss is the divergence of a classifier, else the error of the outputs.

    Raises:
        InputError: as :func:`~.reopened.reopen` and the doors, or there is no model like that, or no float output.

    """
    count = whole_number("samples", samples)
    door = find_door(model)
    if door is None:
        raise InputError(f"{model} is a language model, or nothing that there is; name what {bundle} was made from")
    with TemporaryDirectory(prefix="edgepress-") as name, torch_threads(threads or usable_cores()):
        folder = Path(name)
        (folder / "door").mkdir()
        traced = door.open(model, Options(task, revision), folder / "door")
        if task is None:
            traced = _with_task_of(Path(bundle), traced)
        given = read_samples(data, traced, count)() if data else iter(find_examples(traced, count))
        feeds = list(islice(given, count * max(1, len(data))))
        if not feeds:
            raise InputError(f"{model} runs on none of the inputs that are made up for it; give some by --data")
        opened = reopen(Path(bundle), traced, folder)
        distance = find_distance(traced.task)
        with progress(len(opened.stored) + 1, "leaving parts in float", " runs") as advance:
            loss, saved = losses(opened, distance, feeds, advance)
    parts = [
        PartLoss(one.rounded.name, one.stored_as, one.bytes, tuple(sorted(one.rounded.nodes)), saved[one.rounded.name])
        for one in opened.stored
    ]
    parts.sort(key=lambda part: -part.saved)
    return LossByPart(loss, distance.unit, len(feeds), not data, not opened.in_integers, tuple(parts))


def _with_task_of(bundle: Path, traced: Traced) -> Traced:
    """``traced`` with the bundle's task, where a model of the same edges says nothing of what stands before them.

    So it is where export was told the task of a function or an ONNX file.
    """
    own, found = traced.task, read_manifest(bundle).task
    if found is None or what_is_taken(own) != "arrays":
        return traced
    if (found.inputs, found.outputs) != (own.inputs, own.outputs):
        return traced
    texts = {} if found.text is None else {found.text.tokenizer: bundle / found.text.tokenizer}
    return replace(traced, task=found, texts=texts)


def losses(
    opened: Reopened, distance: Distance, feeds: Sequence[Feed], advance: Callable[[int], None]
) -> tuple[float, dict[str, float]]:
    """How far the outputs are from the float graph's with everything rounded, and how much less without each thing."""
    network = opened.network
    truth = [_run(network, feed) for feed in feeds]

    def loss(left: str | None) -> float:
        rounded = [one.rounded for one in opened.stored if one.rounded.name != left]
        constants = {one.name: one.apply(network.constants[one.name]) for one in rounded if not one.values}
        values = {name: one for one in rounded for name in one.values}
        hooks = Hooks(made=lambda name, value: values[name].apply(value) if name in values else value)
        known = {**opened.changed, **constants}
        found = distance(each(lambda feed: _run(network, feed, known, hooks), feeds, network.device), truth)
        advance(1)
        return found

    whole = loss(None)
    return whole, {one.rounded.name: whole - loss(one.rounded.name) for one in opened.stored}


def _run(
    network: Network, feed: Feed, constants: Mapping[str, Tensor] | None = None, hooks: Hooks | None = None
) -> Arrays:
    with torch.no_grad():
        return arrays(network.run(network.tensors(feed), constants=constants, hooks=hooks or Hooks()))


def format_loss_by_part(found: LossByPart) -> str:
    """The losses as a table, worst first, and what they were measured on."""
    rows = [
        (
            part.name,
            part.stored_as,
            ", ".join(part.nodes[:2]) + (f" and {len(part.nodes) - 2} more" if part.nodes[2:] else ""),
            f"{part.bytes / 1e6:.3f}" if part.bytes else "",
            f"{part.saved:.3g}",
            f"{100 * part.saved / found.loss:.1f}%" if found.loss else "",
        )
        for part in found.parts
    ]
    header = ("what is rounded", "stored as", "nodes", "MB", "loss saved", "share")
    on = f"{found.samples} samples" + (" that are made up: give real ones by --data" if found.made_up else "")
    what = "its weights alone, activations in float32" if found.weights_alone else "all that it rounds"
    total = f"the bundle's loss by {what}: {found.loss:.3g} {found.unit}, on {on}"
    return f"{format_table(header, rows, right=(3, 4, 5))}\n\n{total}"
