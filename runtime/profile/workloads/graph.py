"""A bundle of one graph with a task: a run of some examples at once, again and again, on made-up or given inputs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from edgepress.bundle.manifest import read_manifest
from edgepress.errors import InputError
from edgepress.examples import Feed, find_size, make_feeds, usual_inputs
from edgepress.processing.arrays import read_arrays
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.loading import GRAPH, load_task
from edgepress.runtime.measures.counting.operators import read_profile
from edgepress.runtime.prepared import open_session
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.workloads.workload import Kind, Opening, Part, Timed, Workload
from edgepress.runtime.tasks.kinds import TaskModel, check_feed
from edgepress.sessions import session_options
from edgepress.tasks.task import Edge, Task

_FILLED = 0.1  # s of runs that a turn begins with, so that a short one is seen more than once
_MOST = 256  # of them
_REPEATS = 8  # runs whose nodes are timed


class Runs(Workload):
    """Runs of as many examples at once as each of ``sizes`` says."""

    first = Part("run", "latency_seconds", "ran", "rows")

    def __init__(self, model: TaskModel, work: dict[str, Any]) -> None:
        self._model, self._feeds = model, _feeds(model.task, work)
        self.sizes = tuple(sorted(self._feeds))
        self._rows = self.sizes[0]

    @property
    def ran_on(self) -> str:
        """What computes."""
        return str(self._model.ran_on)

    def begin(self, size: int) -> list[float]:
        """Run ``size`` examples at once until a tenth of a second is over."""
        self._rows = size
        seconds = self.steps(1)
        while sum(seconds) < _FILLED and len(seconds) < _MOST:
            seconds += self.steps(1)
        return seconds

    def steps(self, count: int) -> list[float]:
        """Run."""
        feed, seconds = self._feeds[self._rows], []
        for _ in range(count):
            start = perf_counter()
            self._model.run(feed)
            seconds.append(perf_counter() - start)
        return seconds

    def units(self, part: Part) -> tuple[str, int]:  # noqa: ARG002 - there is one
        """Examples of a run."""
        return "example", self.sizes[-1]

    def held(self) -> dict[str, Any]:
        """Examples of a run."""
        return {"rows": self._rows}


def _feeds(task: Task, work: dict[str, Any]) -> dict[int, Feed]:
    """Inputs by the number of their examples: those of a file, else made up."""
    if work["inputs"] is not None:
        feed = read_arrays(Path(work["inputs"]))
        check_feed(feed, task)
        return {_rows_of(feed): feed}
    length = work["length"] or 1  # of graphs that have no such axis
    return {rows: next(make_feeds(task, length, rows=rows)) for rows in work["rows"]}


def _rows_of(feed: Feed) -> int:
    sizes = [array.shape[0] for array in feed.values() if array.ndim]
    return sizes[0] if sizes else 1


def made_up_run(bundle: Path, *, rows: int | None = None, length: int | None = None) -> Feed:
    """Inputs of one run of a bundle: numbers are made up.

    Raises:
        InputError: the bundle takes no such run.

    """
    asked = _settle(bundle, Settings(rows=None if rows is None else (rows,), length=length))
    task = read_manifest(bundle).task
    assert task is not None
    assert asked.rows is not None
    return next(make_feeds(task, asked.length or 1, rows=asked.rows[0]))


def _settle(bundle: Path, settings: Settings) -> Settings:
    """Open the bundle here, so that what cannot be run is said before anything is measured."""
    verify_first(bundle)
    model = load_task(bundle, threads=settings.threads, prepared=False, verify=False)
    if settings.inputs is not None:
        if settings.rows is not None or settings.length is not None:
            raise InputError(f"the arrays of {settings.inputs} say how many examples there are and how long they are")
        feed = read_arrays(Path(settings.inputs))
        model.run(feed)
        return replace(settings, rows=(_rows_of(feed),))
    inputs = usual_inputs(model.task)
    fixed = fixed_rows(inputs)
    rows = (fixed or 1,) if settings.rows is None else settings.rows
    if fixed is not None and rows != (fixed,):
        raise InputError(f"the graph of {bundle} takes {fixed} examples at once and no other number; leave --rows out")
    free = _free_axes(inputs)
    if settings.length is not None and not free:
        raise InputError(f"every input of {bundle} has one length; leave --length out")
    length = settings.length or (find_size(model.run, model.task) if free else None)
    if free and length is None:
        raise InputError(f"{bundle} runs on no inputs that are made up; give some, as an .npz file, by --inputs")
    for count in rows:
        model.run(next(make_feeds(model.task, length or 1, rows=count)))
    return replace(settings, rows=rows, length=length)


def fixed_rows(inputs: Sequence[Edge]) -> int | None:
    """How many examples a graph takes at once, where that is one number."""
    firsts = [edge.shape[0] for edge in inputs if edge.shape]
    return None if any(isinstance(axis, str) for axis in firsts) else next((int(axis) for axis in firsts), 1)


def _free_axes(inputs: Sequence[Edge]) -> set[str]:
    """Axes without a size, beside the examples'."""
    firsts = {edge.shape[0] for edge in inputs if edge.shape}
    return {axis for edge in inputs for axis in edge.shape if isinstance(axis, str)} - {str(axis) for axis in firsts}


def _open(opening: Opening) -> tuple[Workload, float]:
    start = perf_counter()
    model = load_task(opening.bundle, threads=opening.threads, prepared=opening.prepared)
    seconds = perf_counter() - start
    return Runs(model, opening.work), seconds


def _operators(opening: Opening, folder: Path) -> Iterator[Timed]:
    """Runs of the fewest examples, after a first one."""
    bundle = Path(opening.bundle)
    model = load_task(bundle, threads=1, prepared=opening.prepared)  # which verifies, and knows the task
    options = session_options(opening.cores_used)
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session, _ = open_session(bundle, bundle / GRAPH, options, prepared=opening.prepared)
    feeds = _feeds(model.task, opening.work)
    rows = min(feeds)
    feed = check_feed(feeds[rows], model.task)
    for _ in range(1 + _REPEATS):
        session.run(None, feed)
    yield Timed(Runs.first, rows, read_profile(Path(session.end_profiling()))[1:])


KIND = Kind(
    name="graph",
    suits=lambda task: task is not None and task.sequences is None,
    settings=("rows", "length", "inputs"),
    settle=_settle,
    open=_open,
    operators=_operators,
)
