"""What the manifest of a pruned bundle says of the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgepress.exporter.learn.pruning.curve import Point, draw_curve
from edgepress.exporter.plan.plan import Plan
from edgepress.terminal.progress import Progress

if TYPE_CHECKING:
    from edgepress.exporter.learn.pruning.run import Pruned  # needs torch


def write_curves(work: Path, steps: Sequence[Mapping[str, object]]) -> None:
    """Draw the loss of each step that trained, as ``NUMBER-STEP.svg``."""
    for index, step in enumerate(steps):
        curve = cast("list[Point] | None", step.get("curve"))
        if curve is not None:
            name = f"{index}-{step['name']}"
            (work / f"{name}.svg").write_text(draw_curve(f"{name}: loss, nats a token", curve), encoding="utf-8")


def describe_steps(
    work: Path, plan: Plan, pruned: Pruned, threads: int | None, progress: Progress
) -> tuple[dict[str, object], ...]:
    """The entry of each step, and last that of the bundle, scored with its own graph on the same text."""
    from edgepress.exporter.learn.pruning.score import DIGITS, scored_context
    from edgepress.runtime.measures.evaluate import evaluate

    documents = pruned.held_out
    context, stride = scored_context(plan.context_length)
    with progress(sum(len(document.encode()) for document in documents), "scoring bundle", "B") as advance:
        found = evaluate(
            work, documents, context=context, stride=stride, threads=threads, prepared=False, progress=advance
        )
    last = {
        "name": "bundle",
        "parameters": plan.parameters,
        "bytes": plan.data_bytes,
        "bits_per_byte": round(found.bits_per_byte, DIGITS),
    }
    return (*pruned.steps, last)
