"""What the bundle of an export that prunes says of the steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgepress.exporter.learn.pruning.curve import Point, draw_curve
from edgepress.progress import Progress

if TYPE_CHECKING:
    from edgepress.exporter.decide.prepare import Prepared


def write_curves(work: Path, prepared: Prepared) -> None:
    """Draw the loss of each step that trained, as ``NUMBER-STEP.svg``."""
    for index, step in enumerate(() if prepared.pruned is None else prepared.pruned.steps):
        curve = cast("list[Point] | None", step.get("curve"))
        if curve is not None:
            name = f"{index}-{step['name']}"
            (work / f"{name}.svg").write_text(draw_curve(f"{name}: loss, nats a token", curve), encoding="utf-8")


def describe_steps(
    work: Path, prepared: Prepared, threads: int | None, progress: Progress
) -> tuple[dict[str, object], ...]:
    """What each step came to, the bundle last: scored through its own graph on the same text."""
    from edgepress.exporter.learn.pruning.score import DIGITS, scored_context
    from edgepress.runtime.evaluate import evaluate

    if prepared.pruned is None:
        return ()
    documents = prepared.pruned.held_out
    context, stride = scored_context(prepared.plan.context_length)
    with progress(sum(len(document.encode()) for document in documents), "scoring bundle", "B") as advance:
        found = evaluate(
            work, documents, context=context, stride=stride, threads=threads, prepared=False, progress=advance
        )
    last = {
        "name": "bundle",
        "parameters": prepared.plan.parameters,
        "bytes": prepared.plan.data_bytes,
        "bits_per_byte": round(found.bits_per_byte, DIGITS),
    }
    return (*prepared.pruned.steps, last)
