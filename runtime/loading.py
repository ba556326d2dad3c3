"""``load(bundle)``: an open bundle of whatever kind it is.

A language model is a :class:`~edgepress.runtime.model.Model`; a bundle whose manifest has a task is what that task's
file in :mod:`edgepress.runtime.tasks` opens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.bundle.manifest import MANIFEST_NAME, read_manifest
from edgepress.bundle.packs import find_in_pack, is_pack
from edgepress.cores import usable_cores
from edgepress.disk.exchange import read_steady
from edgepress.errors import InputError
from edgepress.runtime import model
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.placement import find_places, open_first
from edgepress.runtime.prepared import open_session
from edgepress.runtime.sessions.session import ON_CPU
from edgepress.sessions import session_options
from edgepress.whole import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from edgepress.runtime.tasks.kinds import TaskModel
    from edgepress.tasks.task import Edge, Task

GRAPH = "model.onnx"


def load(bundle: str | Path, name: str | None = None, **options: Any) -> Any:
    """Open a bundle.

    Args:
        bundle: the directory that an export wrote, or a pack of several (:mod:`edgepress.bundle.packs`).
        name: which one of a pack.
        options: those of :func:`edgepress.runtime.model.load` for a language model, of :func:`load_task` for another.

    Returns:
        A :class:`~edgepress.runtime.model.Model` or a :class:`~edgepress.runtime.tasks.kinds.TaskModel`. Which of the
        two is known when the manifest is read and not before, so the type says nothing.

    Raises:
        InputError: the directory is not a bundle or not as it was written, or an option is none of these.

    """
    if name is not None or is_pack(Path(bundle)):
        bundle = find_in_pack(Path(bundle), name)
    task = find_task_of(Path(bundle))
    if task is None:
        return model.load(bundle, **options)
    known = {"threads", "prepared", "verify", "on", "soc"}
    if unknown := sorted(name for name, value in options.items() if name not in known and value is not None):
        raise InputError(f"{bundle} is for {task.name}, and {unknown[0]} is for language models; leave it out")
    return load_task(bundle, **{name: value for name, value in options.items() if name in known})


def find_task_of(bundle: Path) -> Task | None:
    """What a bundle is for; None of a language model, and of a folder that has no manifest.

    Raises:
        InputError: there is no such folder, or the manifest is not as it was written.

    """
    return read_manifest(bundle).task if (bundle / MANIFEST_NAME).is_file() or not bundle.is_dir() else None


def load_task(
    bundle: str | Path,
    *,
    threads: int | None = None,
    prepared: bool = True,
    verify: bool = True,
    on: str | None = None,
    soc: str | None = None,
) -> TaskModel:
    """Open a bundle that has a task.

    Args:
        bundle: the directory that an export wrote.
        threads: compute threads; by default one for each core that this process may use.
        prepared: start from the prepared form of the weights, making it if there is none yet (see runtime/prepared.py).
        verify: hash the bundle before it is first used, and when a file has changed since; False trusts what is there.
        on: a target whose static graph the bundle has, simulated where this machine is not one; ``cpu``; or None for
            what is here: an accelerator only if the machine has one, and the CPU, with a warning, when it does not take
            the graph. A static graph runs one example after the other.
        soc: with ``on``, the chip to run or simulate; by default the one that is here, else the first compiled for.

    Raises:
        InputError: the directory is no such bundle or not as it was written, a number is out of range, or the bundle
            was not made for ``on`` or ``soc``.

    """
    # here, as a language model needs none of them
    from edgepress.runtime.sequences.opening import open_sequences
    from edgepress.runtime.tasks.kinds import open_task

    folder = Path(bundle)
    count = usable_cores() if threads is None else whole_number("threads", threads)

    def open_whole() -> TaskModel:
        if verify:
            verify_first(folder)
        manifest = read_manifest(folder)
        task = manifest.task
        if task is None:
            raise InputError(f"{folder} is a language model and has no task; open it with edgepress.runtime.load")
        if task.sequences is not None:
            return open_sequences(folder, task, manifest.states, threads=count, on=on, soc=soc)
        if not (folder / GRAPH).is_file():
            raise InputError(f"{folder / GRAPH} is missing; export the bundle again")
        found = open_first(find_places(folder, on, soc), lambda place: place.open_graph(GRAPH), asked=on is not None)
        if found is not None:
            place, session = found
            task, ran_on = at_one_size(task, place.shapes), place.ran_on
        else:
            session, ran_on = _on_cpu(folder, count, prepared=prepared), ON_CPU
        names = [edge.name for edge in task.outputs]
        given = {value.name for value in session.get_outputs()}, {value.name for value in session.get_inputs()}
        wrong = (set(names) - given[0]) | ({edge.name for edge in task.inputs} ^ given[1])
        if wrong:
            raise InputError(f"{folder}: its graph and its manifest disagree on {sorted(wrong)[0]}; export it again")

        def run(feed: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
            try:
                found = session.run(names, dict(feed))
            except Exception as error:  # onnxruntime's exceptions have no common base class of their own
                raise InputError(f"{folder} does not take these inputs: {_words(error)}") from error
            return dict(zip(names, found, strict=True))

        model = open_task(task, run, folder)
        model.ran_on = ran_on
        return model

    return read_steady(folder, open_whole)


def _on_cpu(folder: Path, threads: int, *, prepared: bool) -> InferenceSession:
    try:
        return open_session(folder, folder / GRAPH, session_options(threads), prepared=prepared)[0]
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{folder / GRAPH} cannot be opened: {error}") from error


def at_one_size(task: Task, shapes: Mapping[str, int]) -> Task:
    """The task of a graph whose axes have the sizes of ``shapes``: texts are cut and padded to theirs."""

    def sized(edges: Sequence[Edge]) -> tuple[Edge, ...]:
        return tuple(replace(edge, shape=tuple(shapes.get(str(axis), axis) for axis in edge.shape)) for edge in edges)

    text = task.text
    if text is not None and (length := shapes.get(str(task.input(text.ids).shape[1]))) is not None:
        text = replace(text, longest=min(text.longest, length), length=length)
    return replace(task, inputs=sized(task.inputs), outputs=sized(task.outputs), text=text)


def _words(error: Exception) -> str:
    """What onnxruntime says, in one line without its own codes."""
    return str(error).strip().splitlines()[0].rpartition(": ")[2][:300] if str(error).strip() else type(error).__name__
