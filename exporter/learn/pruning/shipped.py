"""What an export that prunes keeps beside its output while it works, and what its bundle says of the steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgepress import workspace
from edgepress.exporter.learn.pruning.curve import Point, draw_curve
from edgepress.exporter.recipe.recipe import read_recipe
from edgepress.progress import Progress

if TYPE_CHECKING:
    from edgepress.exporter.decide.prepare import Prepared

_log = logging.getLogger("edgepress.pruning")


@contextmanager
def kept_steps(recipe: str | Path, out: Path) -> Iterator[Path | None]:
    """The hidden directory beside ``out`` for the steps of a recipe that prunes, None for others.

    It is held while the block runs, and removed when that ends without an error, or with one that leaves nothing to go
    on from. Where it stays, a warning says so.
    """
    if not read_recipe(recipe).prune:
        yield None
        return
    folder = workspace.beside(out, "pruning")
    with workspace.held(folder, "another export prunes"):
        try:
            yield folder
        except BaseException as error:
            if _is_worth_keeping(folder, stopped=not isinstance(error, Exception)):
                _log.warning("what is done is kept in %s: the same command goes on from there, or remove it", folder)
            else:
                workspace.remove(folder)
            raise
        workspace.remove(folder)


def _is_worth_keeping(folder: Path, *, stopped: bool) -> bool:
    """Whether there is anything to go on from: a step that is done, training's state, or text that the model wrote.

    Where the user has ``stopped`` the export, whatever there is.
    """
    if stopped:
        return any(path.name != workspace.NOTE for path in folder.iterdir())
    steps = [path for path in folder.glob("[0-9]*-*/step.json") if path.parent.suffix != ".state"]
    return bool(steps) or any(folder.glob("*.state/*.state")) or any(folder.glob("text/*/generations.jsonl"))


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
