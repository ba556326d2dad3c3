"""Measuring a bundle that is no language model: how long a run takes, on given or made-up inputs, and memory.

Raw samples are kept; :func:`format_graph_measurement` averages for the eye.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import numpy as np

from edgepress.bundle.manifest import bundle_hash
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.examples import Feed, find_size, make_feeds, usual_inputs, usual_size
from edgepress.processing.arrays import read_arrays
from edgepress.runtime.loading import load_task
from edgepress.runtime.machine.host import Host, read_host, versions
from edgepress.runtime.machine.memory import Memory, read_memory
from edgepress.runtime.sessions.session import RanOn
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.whole import whole_number


@dataclass(frozen=True)
class GraphMeasurement:
    """One run of :func:`bench_graph`: raw samples, and what they were taken on; inputs have ``shapes``.

    Where inputs are made up and nothing says how long they are, ``tried_size`` is the first size that the graph took.
    """

    bundle: str
    bundle_sha256: str
    started: str
    host: Host
    versions: dict[str, str]
    ran_on: RanOn
    threads: int
    shapes: dict[str, tuple[int, ...]]
    tried_size: int | None
    load_seconds: float
    warmup_seconds: tuple[float, ...]
    run_seconds: tuple[float, ...]
    before_load: Memory
    after_load: Memory
    after_runs: Memory

    def to_json(self) -> dict[str, object]:
        """Everything, as JSON has it."""
        return asdict(self)


def is_language_model(bundle: Path) -> bool:
    """Whether a directory is a bundle that takes text, or none that says what it is."""
    return (bundle / "genai_config.json").is_file() or not (bundle / "manifest.json").is_file()


def bench_graph(
    bundle: Path,
    *,
    repetitions: int = 5,
    warmup: int = 1,
    threads: int | None = None,
    rows: int = 1,
    inputs: Path | None = None,
    prepared: bool = True,
    on: str | None = None,
    soc: str | None = None,
) -> GraphMeasurement:
    """Open a bundle and run it.

    Args:
        bundle: a directory that an export wrote.
        repetitions: runs that are measured.
        warmup: runs before them, kept apart.
        threads: compute threads; one for each usable core when None.
        rows: examples of each run, for an axis that is free and comes first, where inputs are made up.
        inputs: an .npz file with an array for each input; numbers are made up where there is none.
        prepared: start from the prepared form of the weights, as an app does.
        on: see :func:`~edgepress.runtime.loading.load_task`.
        soc: see there.

    Raises:
        InputError: it is no such bundle, it does not take the inputs, or a number is not at least 1 (``warmup``: 0).

    """
    for name, number, least in (("repetitions", repetitions, 1), ("warmup", warmup, 0), ("rows", rows, 1)):
        whole_number(name, number, least=least)
    threads = usable_cores() if threads is None else threads
    whole_number("threads", threads)
    started, before = datetime.now(UTC).isoformat(timespec="seconds"), read_memory()
    start = perf_counter()
    model = load_task(bundle, threads=threads, prepared=prepared, on=on, soc=soc)
    load, after = perf_counter() - start, read_memory()
    feed, tried = _made_up(model, rows) if inputs is None else (read_arrays(inputs), None)
    seconds = []
    for _ in range(warmup + repetitions):
        start = perf_counter()
        model.run(feed)
        seconds.append(perf_counter() - start)
    return GraphMeasurement(
        bundle=str(bundle),
        bundle_sha256=bundle_hash(bundle),
        started=started,
        host=read_host(),
        versions=versions("onnxruntime", "numpy"),
        ran_on=model.ran_on,
        threads=threads,
        shapes={name: array.shape for name, array in feed.items()},
        tried_size=tried,
        load_seconds=load,
        warmup_seconds=tuple(seconds[:warmup]),
        run_seconds=tuple(seconds[warmup:]),
        before_load=before,
        after_load=after,
        after_runs=read_memory(),
    )


def _made_up(model: TaskModel, rows: int) -> tuple[Feed, int | None]:
    """Made-up inputs that the bundle takes, and the size of their free axes where the task says none."""
    size = find_size(model.run, model.task)
    if size is None:
        raise InputError(f"{model.folder} runs on no inputs that are made up; give some, as an .npz file, by --inputs")
    free = any(isinstance(axis, str) for edge in usual_inputs(model.task) for axis in edge.shape[1:])
    return next(make_feeds(model.task, size, rows=rows)), size if free and size != usual_size(model.task) else None


def format_graph_measurement(found: GraphMeasurement) -> str:
    """Averages of a measurement, as lines for a terminal."""
    p50, p95 = np.quantile(found.run_seconds, (0.5, 0.95)) * 1e3

    def megabytes(count: int | None) -> str:
        return "unknown" if count is None else f"{count / 1e6:,.1f} MB"

    shapes = ", ".join(f"{name} {'×'.join(map(str, shape)) or 'scalar'}" for name, shape in found.shapes.items())
    tried = f"made up, {found.tried_size} long, the first size that ran; give yours, as an .npz file, by --inputs"
    return "\n".join(
        [
            f"{found.bundle} on {found.host.cpu}, threads {found.threads}",
            f"  ran on         {found.ran_on.beside_times()}",
            f"  load           {found.load_seconds:.3f} s",
            f"  run            {p50:.3f} ms (p50), {p95:.3f} ms (p95) of {len(found.run_seconds)}: {shapes}",
            *([] if found.tried_size is None else [f"  inputs         {tried}"]),
            f"  memory peak    {megabytes(found.after_runs.peak_rss)} resident, of which "
            f"{megabytes(found.before_load.rss)} before the bundle was loaded",
            f"  memory steady  {megabytes(found.after_runs.rss)} resident",
        ]
    )
