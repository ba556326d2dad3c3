"""Measuring a bundle that is no language model: how long one run on example inputs takes, and memory.

Raw samples are kept; :func:`format_graph_measurement` averages for the eye.
"""

import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np

from edgepress import __version__
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.examples import example_inputs
from edgepress.manifest import bundle_hash, read_manifest
from edgepress.runtime.host import Host, read_host
from edgepress.runtime.memory import Memory, read_memory
from edgepress.sessions import open_on_cpu, session_options
from edgepress.whole import whole_number

_MODEL = "model.onnx"


@dataclass(frozen=True)
class GraphMeasurement:
    """One run of :func:`bench_graph`: raw samples, and what they were taken on; every run is of ``rows`` examples."""

    bundle: str
    bundle_sha256: str
    started: str
    host: Host
    versions: dict[str, str]
    threads: int
    rows: int
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
    bundle: Path, *, repetitions: int = 5, warmup: int = 1, threads: int | None = None, rows: int = 1
) -> GraphMeasurement:
    """Open a bundle on the CPU and run it on example inputs.

    Args:
        bundle: a directory that an export wrote.
        repetitions: runs that are measured.
        warmup: runs before them, kept apart.
        threads: compute threads; one for each usable core when None.
        rows: examples of each run, for each dimension that is not fixed.

    Raises:
        InputError: it is no such bundle, or a number is not at least 1 (``warmup``: 0).

    """
    for name, number, least in (("repetitions", repetitions, 1), ("warmup", warmup, 0), ("rows", rows, 1)):
        whole_number(name, number, least=least)
    threads = usable_cores() if threads is None else threads
    whole_number("threads", threads)
    read_manifest(bundle)
    if not (bundle / _MODEL).is_file():
        raise InputError(f"{bundle / _MODEL} is missing; export the bundle again")
    started, before = datetime.now(UTC).isoformat(timespec="seconds"), read_memory()
    start = perf_counter()
    session = open_on_cpu(bundle / _MODEL, session_options(threads))
    load, after = perf_counter() - start, read_memory()
    feeds, seconds = example_inputs(session, rows), []
    for _ in range(warmup + repetitions):
        start = perf_counter()
        session.run(None, feeds)
        seconds.append(perf_counter() - start)
    return GraphMeasurement(
        bundle=str(bundle),
        bundle_sha256=bundle_hash(bundle),
        started=started,
        host=read_host(),
        versions={
            "edgepress": __version__,
            "onnxruntime": version("onnxruntime"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        threads=threads,
        rows=rows,
        load_seconds=load,
        warmup_seconds=tuple(seconds[:warmup]),
        run_seconds=tuple(seconds[warmup:]),
        before_load=before,
        after_load=after,
        after_runs=read_memory(),
    )


def format_graph_measurement(found: GraphMeasurement) -> str:
    """Averages of a measurement, as lines for a terminal."""
    p50, p95 = np.quantile(found.run_seconds, (0.5, 0.95)) * 1e3

    def megabytes(count: int | None) -> str:
        return "unknown" if count is None else f"{count / 1e6:,.1f} MB"

    return "\n".join(
        [
            f"{found.bundle} on {found.host.cpu}, threads {found.threads}",
            f"  load           {found.load_seconds:.3f} s",
            f"  run            {p50:.3f} ms (p50), {p95:.3f} ms (p95) of {len(found.run_seconds)}, rows {found.rows}",
            f"  memory peak    {megabytes(found.after_runs.peak_rss)} resident, of which "
            f"{megabytes(found.before_load.rss)} before the bundle was loaded",
            f"  memory steady  {megabytes(found.after_runs.rss)} resident",
        ]
    )
