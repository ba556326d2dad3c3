"""Where does a cold start go, from a new process to the first token after a prompt of 64?

    PYTHON benchmarks/tool_speed.py --build     # makes all files, once
    PYTHON benchmarks/cold_start.py [--rounds 5] [--shapes …] [--tools …]

PYTHON is one that has the [bench] extra. Random weights of the shapes of real models, each tool with its own file, on
one thread, files in the page cache; tools take turns. A start is a process that has nothing in it but what the tool
needs (tool_text.py), and says what each stage took in CPU seconds, the system's for page faults included: other work on
the machine changes these less than time. edgepress opens its prepared form.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from common import RESULTS, group, load, save, spread, table
from make_checkpoint import SHAPES as MADE
from tool_speed import SHAPES, place_of, start_cold

CASES = (
    ("edgepress", "int4"),
    ("edgepress", "int4-128"),
    ("onnxruntime-genai", "rtn"),
    ("llama.cpp", "Q4_0 pure"),
    ("llama.cpp", "Q4_K_M"),
)
STAGES = ("interpreter", "numpy", "the tool's libraries", "opening", "first token")
Sample = Mapping[str, Any]


def stages(sample: Sample) -> tuple[float, ...]:
    """CPU milliseconds of a start by stage, in the order of ``STAGES``."""
    seconds = {name: 1e3 * value for name, value in sample["cpu_s"].items()}
    known = {name: seconds.pop(name) for name in STAGES if name in seconds}
    return tuple(known.get(name, sum(seconds.values())) for name in STAGES)


def row(key: tuple[Any, ...], samples: Sequence[Sample]) -> tuple[str, ...]:
    """One table row: medians of stages, median and range of their sum."""
    parts = [stages(sample) for sample in samples]
    return (
        *map(str, key),
        *(f"{statistics.median(values):.0f}" for values in zip(*parts, strict=True)),
        spread([sum(one) for one in parts], 0),
        f"{statistics.median(sample['peak_bytes'] for sample in samples) / 1e6:.0f}",
    )


def report(samples: Sequence[Sample]) -> str:
    """The table, from raw samples."""
    header = ("shape", "tool", "weights", *(f"{name}, ms" for name in STAGES), "whole start, ms", "MB at most")
    return table(header, [row(*item) for item in group(samples, "shape", "tool", "name").items()])


def main() -> None:
    """Start each in turn, keep every sample, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--tools", nargs="*", default=sorted({tool for tool, _ in CASES}))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    path = RESULTS / "cold_start.jsonl"
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []
    samples = [one for one in kept if one["shape"] not in arguments.shapes or one["tool"] not in arguments.tools]
    cases = [case for case in product(arguments.shapes, CASES) if case[1][0] in arguments.tools]
    for turn in range(-1, arguments.rounds):  # the first fills the page cache, and makes what a first use makes
        for shape, (tool, name) in cases:
            found = start_cold(tool, place_of(shape, tool, name), 1, MADE[shape].vocab)
            if turn >= 0:
                key = {"shape": shape, "tool": tool, "name": name, "round": turn}
                samples.append(key | found | {"load": load()})
        print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    order = [(shape, *case) for shape, case in product(MADE, CASES)]
    samples.sort(key=lambda one: order.index((one["shape"], one["tool"], one["name"])))
    save("cold_start", samples)
    print(report(samples))


if __name__ == "__main__":
    main()
