"""What every benchmark needs: where it runs, a child process's cost, and raw samples kept in results/."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from edgepress import __version__

Kind = TypeVar("Kind")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "build" / "bench"  # checkpoints and bundles made for measurements; not committed
TARGET = "x86-cpu"  # what is measured on x86-64: one graph, and scales, in float32
SIZES = {
    "demo": "demo (1.9 M weights)",
    "tiny1m": "tiny1m (0.9 M weights)",
    "stories260k": "stories260k (0.26 M weights)",
    "resnet20": "resnet20 (0.27 M weights)",
}
"""Models so small that a figure says little of large ones: every table in a page says how small."""
_PACKAGES = ("onnxruntime", "onnxruntime-genai", "numpy", "onnx", "torch", "transformers")


def commit(root: Path) -> str | None:
    """The commit of the checkout ``root``, ``-dirty`` after it when anything but results was changed since.

    None where there is no git, or no checkout.
    """
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


COMMIT = commit(ROOT)  # when the run begins: a commit made while it goes on is not what it measures


@dataclass(frozen=True)
class Cost:
    """What one child process took: wall and CPU seconds, and peak resident bytes (mapped pages included)."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def measure_command(command: Sequence[str | Path]) -> Cost:
    """Run ``command`` to its end and return the operating system's account of it, as ``/usr/bin/time -v`` does."""
    start = time.perf_counter()
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdout is not None
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if child.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{output.decode(errors='replace')[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def host() -> dict[str, object]:
    """Return the machine and the versions that a figure was taken on."""
    versions = {"edgepress": __version__}  # which is not that of an old editable install's metadata
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "commit": COMMIT,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def save(name: str, samples: Iterable[Mapping[str, object]]) -> Path:
    """Replace ``results/<name>.jsonl``: one line for the host, then one for each raw sample.

    Each has the ``commit`` that it was taken at: this run's, unless it says another (None is one that nobody noted).
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    head = {"host": host(), "date": time.strftime("%Y-%m-%d")}
    lines = [json.dumps(head), *(json.dumps({"commit": COMMIT, **sample}) for sample in samples)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load() -> float:
    """How many programs wanted a core in the last minute, this one among them: of times, whether to trust them."""
    return round(os.getloadavg()[0], 1)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``median (min–max)``, of one value the value."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def read_sample(kind: type[Kind], sample: Mapping[str, Any]) -> Kind:
    """Make a dataclass from a raw sample, which may have more than its fields."""
    return kind(**{field.name: sample[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def group(samples: Iterable[Mapping[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Samples by what they have under ``keys``, in the order in which each first came; None where one has nothing."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for sample in samples:
        found.setdefault(tuple(sample.get(key) for key in keys), []).append(sample)
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, as the README quotes it."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
