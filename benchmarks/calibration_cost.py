"""What does a calibrated export cost, against the slowest mode of onnxruntime-genai's builder, and how does it grow?

Whole processes: wall seconds and peak resident memory, imports and start-up included. edgepress rounds projections by
GPTQ (4 bits, block 128, the embedding to nearest) on random checkpoints of two shapes, with 2048 and 4096 tokens of
this repository's own documents; the builder's k_quant mixed mode, on the larger shape, sees no text. It takes about
seven minutes and 9 GB, so there is one round unless more are asked for: it goes first, ours follow. Each sample keeps
the load average before and after it: where other work shares the cores, CPU seconds say more than wall seconds.

    python benchmarks/calibration_cost.py [--rounds 1] [--ours-only] [--shapes qwen2.5-0.5b] [--tokens 4096]
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from accuracy_recipes import Asked
from common import ROOT, WORK, Cost, group, measure_command, read_sample, save, spread, table
from export_cost import OURS, THEIRS, checkpoint, peak, theirs

LARGE, SMALL = "qwen2.5-0.5b", "smollm2-135m"
RUNS = ((LARGE, 4096), (LARGE, 2048), (SMALL, 4096), (SMALL, 2048))  # shapes and calibration tokens
TEXTS = (ROOT / "README.md", ROOT / "docs" / "design.md")
MIXED_BLOCK = 32
SHARE, MEMORY = 1 / 3, 1.5 * 2**30  # the goal: of the builder's time, and bytes


def ours(shape: str, tokens: int) -> Cost:
    """Export with edgepress."""
    recipe = Asked("gptq", block_size=128).write(WORK / "recipes")
    sized = recipe.with_stem(f"{recipe.stem}-{tokens}")
    sized.write_text(f"{recipe.read_text()}[calibration]\ntokens = {tokens}\n")
    command = [sys.executable, "-m", "edgepress", "export", checkpoint(shape), "--recipe", sized]
    texts = [word for text in TEXTS for word in ("--calibration", text)]
    return measure_command([*command, "--out", WORK / f"calibrated-{shape}", "--force", *texts])


def main() -> None:
    """Measure in turn, keep the raw samples, print the table and whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ours-only", action="store_true", help="leave the builder out")
    parser.add_argument("--shapes", nargs="+", default=[LARGE, SMALL], choices=[LARGE, SMALL])
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 2048], choices=[4096, 2048])
    arguments = parser.parse_args()
    runs = [(shape, tokens) for shape, tokens in RUNS if shape in arguments.shapes and tokens in arguments.tokens]
    for shape in {shape for shape, _ in runs}:
        checkpoint(shape)
    samples: list[dict[str, object]] = []
    for turn in range(arguments.rounds):
        if not arguments.ours_only:
            named = {"tool": THEIRS, "shape": LARGE, "algorithm": "k_quant_mixed", "round": turn}
            samples.append(sample(named, lambda: theirs(LARGE, MIXED_BLOCK, "k_quant_mixed")))
        for shape, tokens in runs:
            named = {"tool": OURS, "shape": shape, "algorithm": "gptq", "tokens": tokens, "round": turn}
            samples.append(sample(named, partial(ours, shape, tokens)))
    print(f"raw samples: {save('calibration_cost', samples)}")
    print(report(samples))


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The table, and whether the goal is met, from raw samples."""
    cases = group(samples, "tool", "shape", "tokens")
    found = {case: [read_sample(Cost, one) for one in ones] for case, ones in cases.items()}
    names = {OURS: "edgepress, gptq block 128", THEIRS: "onnxruntime-genai builder, k_quant mixed"}
    rows = [(shape, names[tool], str(tokens or "–"), *cells(costs)) for (tool, shape, tokens), costs in found.items()]
    made = table(("shape", "tool", "calibration tokens", "s", "CPU s", "peak MB"), rows)
    mine, builder = found.get((OURS, *RUNS[0])), found.get((THEIRS, LARGE, None))
    return f"{made}\n{goal(mine, builder)}" if mine and builder else made


def sample(named: dict[str, object], run: Callable[[], Cost]) -> dict[str, object]:
    """Measure one run; return it with what else the machine did."""
    before = os.getloadavg()[0]
    found = {**named, **vars(run()), "load_before": before, "load_after": os.getloadavg()[0]}
    print(found, flush=True)
    return found


def cells(costs: list[Cost]) -> tuple[str, str, str]:
    """Wall seconds, CPU seconds and peak memory as the table shows them."""
    return spread([cost.wall_s for cost in costs], 1), spread([cost.cpu_s for cost in costs], 1), peak(costs)


def goal(mine: list[Cost], builder: list[Cost]) -> str:
    """Whether each round took less than a third of the builder's time, and at most 1.5 GiB."""
    shares = [a.wall_s / b.wall_s for a, b in zip(mine, builder, strict=True)]
    quick, small = max(shares) < SHARE, max(cost.peak_bytes for cost in mine) <= MEMORY
    times, memory = spread([1 / share for share in shares], 1), peak(mine)
    work = spread([b.cpu_s / a.cpu_s for a, b in zip(mine, builder, strict=True)], 1)
    lines = (
        f"less than a third of the builder's time: {'yes' if quick else 'no'} ({times} times as fast)",
        f"CPU seconds: the builder takes {work} times as many",
        f"at most 1.5 GiB: {'yes' if small else 'no'} ({memory} MB)",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
