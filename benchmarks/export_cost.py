"""What does an int4 export cost, against onnxruntime-genai's model builder on the same checkpoint?

Both run as whole processes in turn on a random checkpoint of each shape: wall seconds and peak resident memory,
imports and start-up included. The builder gets the same block size, bits and accuracy level, round to nearest. Ours is
run without llvmlite, too: numpy rounds then, to the same bytes.

    python benchmarks/export_cost.py [--shapes qwen2.5-0.5b smollm2-135m] [--rounds 3]
    python benchmarks/export_cost.py --shapes --ours-only qwen2.5-7b --rounds 1    # 15 GB of checkpoint, 20 GB of disk
    python benchmarks/export_cost.py --memory [qwen2.5-1.5b]    # peak memory of ours alone: no load changes that
"""

import argparse
import json
import math
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, WORK, Cost, group, measure_command, read_sample, save, spread, table
from make_checkpoint import SHAPES, tensors

OURS, IN_NUMPY, THEIRS = "edgepress", "edgepress without llvmlite", "onnxruntime-genai builder"
_WITHOUT = "import sys; sys.modules['llvmlite'] = None; from edgepress.cli import main; sys.exit(main())"
MEMORY = ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b")
HERE = Path(__file__).parent
TOKENIZER = HERE.parent / "exporter" / "demo" / "model"


def checkpoint(shape: str) -> Path:
    """Make the random checkpoint of ``shape``, once."""
    path = WORK / f"checkpoint-{shape}"
    if not path.exists():
        command = [sys.executable, HERE / "make_checkpoint.py", shape, path, "--tokenizer", TOKENIZER]
        measure_command(command)
    return path


def ours(shape: str, recipe: str, *how: str) -> Cost:
    """Export with edgepress; ``how`` Python is to run it, where not as a module."""
    out = WORK / f"edgepress-{shape}"
    command = [sys.executable, *(how or ("-m", "edgepress")), "export", checkpoint(shape)]
    return measure_command([*command, "--recipe", recipe, "--out", out, "--force"])


def theirs(shape: str, block: int, algorithm: str = "rtn") -> Cost:
    """Export with onnxruntime-genai's builder; its output folder must not exist."""
    out, cache = WORK / f"genai-{shape}", WORK / "cache"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint(shape), "-o", out]
    options = [f"algo_config={algorithm}", f"block_size={block}", "accuracy_level=4"]
    return measure_command([*command, "-p", "int4", "-e", "cpu", "-c", cache, "--extra_options", *options])


def sample(tool: str, shape: str, recipe: str, turn: int, found: Cost) -> dict[str, object]:
    """Return one raw sample as a JSON line's content."""
    return {"tool": tool, "shape": shape, "recipe": recipe, "round": turn, **vars(found)}


def main() -> None:
    """Measure in turn, keep the raw samples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["qwen2.5-0.5b", "smollm2-135m"])
    parser.add_argument("--ours-only", nargs="*", default=[], help="shapes too large for the builder to be run here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", nargs="*", help=f"shapes; the default is {' '.join(MEMORY)}")
    arguments = parser.parse_args()
    if arguments.memory is not None:
        measure_memory(arguments.memory or MEMORY)
        return
    samples: list[dict[str, object]] = []
    for shape in arguments.shapes:
        checkpoint(shape)
        for recipe, block in (("int4", 32), ("int4-128", 128)):
            for turn in range(arguments.rounds):
                samples.append(sample(OURS, shape, recipe, turn, ours(shape, recipe)))
                samples.append(sample(IN_NUMPY, shape, recipe, turn, ours(shape, recipe, "-c", _WITHOUT)))
                samples.append(sample(THEIRS, shape, recipe, turn, theirs(shape, block)))
                print(samples[-3:], flush=True)
    for shape in arguments.ours_only:
        checkpoint(shape)
        samples += [sample(OURS, shape, "int4", turn, ours(shape, "int4")) for turn in range(arguments.rounds)]
    print(f"raw samples: {save('export_cost' if arguments.shapes else 'export_cost_large', samples)}")
    print(report(samples))


def measure_memory(shapes: Sequence[str]) -> None:
    """Peak memory of our exports of the shapes, in the place of what was measured of them before."""
    path = RESULTS / "export_memory.jsonl"
    kept = [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]] if path.exists() else []
    kept = [one for one in kept if one["shape"] not in shapes]
    for shape in shapes:
        for recipe in ("int4", "int4-128"):
            for tool, how in ((OURS, ()), (IN_NUMPY, ("-c", _WITHOUT))):
                kept.append(memory_sample(shape, recipe, tool, ours(shape, recipe, *how)))
                print(kept[-1], flush=True)
        save("export_memory", sorted(kept, key=lambda one: one["weights"]))
    print(memory_table(kept))


def memory_sample(shape: str, recipe: str, tool: str, found: Cost) -> dict[str, Any]:
    """What is kept: nothing that a loaded machine changes."""
    weights = sum(math.prod(dims) for _, dims in tensors(SHAPES[shape]))
    return {"tool": tool, "shape": shape, "weights": weights, "recipe": recipe, "peak_bytes": found.peak_bytes}


def memory_table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Peak memory by shape and recipe."""
    rows = []
    for (shape, weights, recipe), of_case in group(samples, "shape", "weights", "recipe").items():
        by_tool = {one["tool"]: f"{one['peak_bytes'] / 1e6:,.0f}" for one in of_case}
        rows.append((shape, f"{weights / 1e6:,.0f}", recipe, by_tool.get(OURS, "–"), by_tool.get(IN_NUMPY, "–")))
    return table(("shape", "million weights", "recipe", "peak MB", "without llvmlite: peak MB"), rows)


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The table, from raw samples."""
    if samples and "weights" in samples[0]:
        return memory_table(samples)
    rows = []
    for (shape, recipe), of_case in group(samples, "shape", "recipe").items():
        mine, numpys, other = (
            [read_sample(Cost, one) for one in of_case if one["tool"] == tool] for tool in (OURS, IN_NUMPY, THEIRS)
        )
        ratios = [b.wall_s / a.wall_s for a, b in zip(mine, other, strict=True)] if other else []
        seconds = (walls(mine), walls(numpys), walls(other), spread(ratios, 1) if ratios else "–")
        rows.append((shape, recipe, *seconds, peak(mine), peak(numpys), peak(other)))
    header = ("shape", "recipe", "edgepress s", "without llvmlite s", "genai builder s", "builder ÷ edgepress")
    return table((*header, "edgepress MB", "without llvmlite MB", "builder MB"), rows)


def walls(costs: list[Cost]) -> str:
    """Median and range of the wall seconds."""
    return spread([one.wall_s for one in costs], 1) if costs else "not run"


def peak(costs: list[Cost]) -> str:
    """Median peak memory in MB."""
    return f"{statistics.median(one.peak_bytes for one in costs) / 1e6:,.0f}" if costs else "–"


if __name__ == "__main__":
    main()
