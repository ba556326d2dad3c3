"""What does a bundle take to start and to hold, opened as it is and from its prepared form?

Each sample is a process of its own: it loads, prefills 512 tokens, decodes 64, and reads its memory before, after the
load and at the end. ``packed`` is what onnxruntime computes from (codes, scales and block sums of every product): the
least that can be resident.

    python benchmarks/memory.py [--rounds 5] [--shape qwen2.5-0.5b]
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import WORK, group, save, spread, table
from export_cost import checkpoint

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.runtime.prepared import prepare

PROMPT, DECODED, CONTEXT = 512, 64, 1024
CHILD = """
import json, sys, time
import numpy as np
import onnxruntime
from edgepress.runtime import load
from edgepress.runtime.machine.memory import read_memory
before = read_memory()
start = time.perf_counter()
model = load(sys.argv[1], threads=int(sys.argv[2]), context=int(sys.argv[3]), prepared=sys.argv[4] == "True")
seconds = time.perf_counter() - start
loaded = read_memory()
model.prefill(np.random.default_rng(0).integers(3, 1000, int(sys.argv[5])))
start = time.perf_counter()
for token in range(int(sys.argv[6])):
    model.decode(token)
decode = time.perf_counter() - start
found = {"before": vars(before), "loaded": vars(loaded), "end": vars(read_memory())}
print(json.dumps({"start_s": seconds, "decode_s": decode, **found}))
"""


def packed_bytes(bundle: Path) -> int:
    """Bytes of the packed weights: codes plus, for each block, a float32 scale and a float32 sum."""
    total = 0
    for tensor in read_manifest(bundle).tensors:
        regions = tensor["regions"]
        if tensor["scheme"] is not None:
            total += regions["values"][1] + 2 * regions["scales"][1]
    return total


def run(bundle: Path, threads: int, prepared: bool) -> dict[str, object]:
    """Measure one process."""
    words = [bundle, threads, CONTEXT, prepared, PROMPT, DECODED]
    command = [sys.executable, "-c", CHILD, *map(str, words)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Measure in turn, keep the raw samples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen2.5-0.5b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    samples: list[dict[str, Any]] = []
    for recipe in ("int4", "int4-128"):
        bundle = WORK / f"memory-{arguments.shape}-{recipe}"
        export(checkpoint(arguments.shape), out=bundle, recipe=recipe, force=True)
        prepare(bundle)
        packed = packed_bytes(bundle)
        turns = [
            {prepared: run(bundle, arguments.threads, prepared) for prepared in (False, True)}
            for _ in range(arguments.rounds)
        ]
        for prepared in (False, True):
            found = [turn[prepared] for turn in turns]
            key = {"shape": arguments.shape, "recipe": recipe, "prepared": prepared, "packed_bytes": packed}
            samples += [{**key, "threads": arguments.threads, "round": n, **one} for n, one in enumerate(found)]
    print(f"raw samples: {save('memory', samples)}")
    print(report(samples))


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The table, from raw samples, and what all its figures include."""
    found = group(samples, "recipe", "prepared", "packed_bytes")
    header = ("recipe", "opened from", "start s", "anonymous MB, started", "anonymous MB, end", "resident MB, end")
    made = table((*header, "resident ÷ packed"), [row(*case, turns) for case, turns in found.items()])
    resident, anonymous = (megabytes([one["before"][key] for one in samples]) for key in ("rss", "anonymous"))
    return (
        f"{made}\nan interpreter with onnxruntime imported: {resident} MB resident, {anonymous} MB of it anonymous; "
        "all figures include it"
    )


def row(recipe: str, prepared: bool, packed: int, found: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return one table row of medians."""
    resident = [one["end"]["rss"] for one in found]
    return (
        recipe,
        "prepared form" if prepared else "bundle",
        spread([one["start_s"] for one in found]),
        megabytes([one["loaded"]["anonymous"] for one in found]),
        megabytes([one["end"]["anonymous"] for one in found]),
        megabytes(resident),
        f"{statistics.median(resident) / packed:.2f}",
    )


def megabytes(values: list[int]) -> str:
    """Median in MB."""
    return f"{statistics.median(values) / 1e6:,.0f}"


if __name__ == "__main__":
    main()
