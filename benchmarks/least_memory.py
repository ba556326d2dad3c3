"""The least memory with which a model of half a billion weights answers, in three tools with their own int4 files.

Each tool opens its file, takes a prompt of 64 tokens and decodes 16, on one thread, in a process of its own: first
without a limit, where resident memory is read, then under limits that are halved to the smallest with which it still
answers (profile's pass ``limit`` does it alike). ``RLIMIT_DATA`` counts private memory that can be written, resident
or not, ``RLIMIT_AS`` every address, files that are mapped too. A control group, which counts what is resident, is not
used: it is not everyone's to make.

    python benchmarks/least_memory.py [--shape qwen2.5-0.5b]

The shape has random weights. llama.cpp needs the [bench] extra; its keys and values are in float32, as the others'
are. edgepress opens its prepared form, which is made before.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import WORK, group, save, table
from comparison import FILES, LlamaCpp, build, environment, shipped
from decode_speed import STEPS as GENAI_STEPS
from decode_speed import Genai, Ours
from export_cost import checkpoint

from edgepress.errors import InputError
from edgepress.runtime.profile.system.memory_limit import run_under, smallest

PROMPT, STEPS = 64, 16
ROOM = PROMPT + GENAI_STEPS + 2  # tokens: what decode_speed.py lets onnxruntime-genai have
CASES = (("edgepress", "int4"), ("onnxruntime-genai", "rtn"), ("llama.cpp", "Q4_0"))
LIMITS = {"RLIMIT_DATA": resource.RLIMIT_DATA, "RLIMIT_AS": resource.RLIMIT_AS}
UNLIMITED = 1 << 40
BEGIN = 512 << 20  # bytes


class Bounded(Ours):
    """edgepress with room for as long a text as the others are given: memory of all of it is allocated."""

    def __init__(self, bundle: Path, threads: int) -> None:
        from edgepress.runtime import load

        self._model = load(bundle, threads=threads, context=ROOM)


def opened_by(tool: str, path: Path) -> Ours | Genai | LlamaCpp:
    """A tool's file, open, with room for :data:`ROOM` tokens."""
    if tool == "llama.cpp":
        return LlamaCpp(path, 1, PROMPT, ROOM - PROMPT - 2)
    return Bounded(path, 1) if tool == "edgepress" else Genai(path, 1)


def answer(tool: str, path: Path) -> None:
    """What has to fit: the file opened, a prompt and an answer."""
    opened = opened_by(tool, path)
    opened.start(np.random.default_rng(0).integers(3, 1000, PROMPT).tolist())
    for _ in range(STEPS):
        opened.step()


def resident(tool: str, path: Path) -> dict[str, float]:
    """The most that was resident, and what of it no file backs at the end: the system cannot take that back."""
    from edgepress.runtime.machine.memory import read_memory

    answer(tool, path)
    found = read_memory()
    return {"peak_bytes": float(found.peak_rss or 0), "anonymous_bytes": float(found.anonymous or 0)}


def survives(tool: str, path: Path, kind: str, limit: int) -> tuple[bool, str]:
    """Whether a process answers under a limit, and what it said where not."""

    def work() -> None:
        resource.setrlimit(LIMITS[kind], (limit, limit))
        answer(tool, path)

    try:
        trial = run_under(UNLIMITED, work)
    except InputError as error:  # how llama.cpp says that memory failed: it cannot read its file
        return False, str(error)
    return trial.survived, trial.error


def least(tool: str, path: Path, kind: str) -> dict[str, Any]:
    """The smallest limit that a tool survives, and every one that was tried."""
    trials: list[dict[str, Any]] = []

    def tried(limit: int) -> bool:
        survived, error = survives(tool, path, kind, limit)
        trials.append({"limit_bytes": limit, "survived": survived, "error": error.replace(str(WORK), ".")[:200]})
        return survived

    return {"limit_bytes": smallest(tried, BEGIN), "trials": trials}


def child(*words: str) -> Any:
    """What a fresh process of this file says: a library that is loaded already would be in its figures."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", *words], env=environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(shape: str) -> list[dict[str, Any]]:
    """Each tool: its file made once, its memory, and its limits."""
    samples = []
    for tool, name in CASES:
        out = WORK / f"least-{shape}-{tool}-{name}"
        path = out / FILES[tool]
        if not path.exists():
            out.mkdir(parents=True, exist_ok=True)
            build(tool, name, checkpoint(shape), out, Path())
        limits = {kind: child("least", tool, str(path), kind) for kind in LIMITS}
        found = {
            "shape": shape,
            "tool": tool,
            "name": name,
            "bytes": shipped(path),
            **child("resident", tool, str(path)),
        }
        samples.append({**found, "limits": limits})
        print(samples[-1], flush=True)
    return samples


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each tool."""
    rows = []
    for (shape, tool, name), (one,) in group(samples, "shape", "tool", "name").items():
        sizes = [one["bytes"], one["peak_bytes"], one["anonymous_bytes"]]
        sizes += [one["limits"][kind]["limit_bytes"] for kind in LIMITS]
        cells = ("none found" if size is None else f"{size / 1e6:,.0f}" for size in sizes)
        rows.append([f"{shape} shape, random weights", tool, name, *cells])
    header = [
        "model",
        "tool",
        "weights",
        "file MB",
        "peak MB",
        "anonymous MB",
        "least RLIMIT_DATA MB",
        "least RLIMIT_AS MB",
    ]
    return table(header, rows)


def main() -> None:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen2.5-0.5b")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, tool, path, *kind = arguments.child
        print(json.dumps(resident(tool, Path(path)) if what == "resident" else least(tool, Path(path), *kind)))
        return
    samples = measure(arguments.shape)
    print(f"raw samples: {save('least_memory', samples)}")
    print(report(samples))


if __name__ == "__main__":
    main()
