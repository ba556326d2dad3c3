"""How fast do tools run the same weights, each in its own format: prompts, decoding at length, follow-ups, cold starts?

    PYTHON benchmarks/tool_speed.py --build                        # makes all files, some minutes; nothing is timed
    PYTHON benchmarks/tool_speed.py [--shapes …] [--threads 1 2]   # times them: 9 minutes on a quiet machine of 2 cores

PYTHON is one that has the [bench] extra, which compiles llama.cpp. A row is one tool's file in a process of its own, on
one number of threads; it is kept as soon as it is there, and a run goes on where the last one stopped (``--again``
begins anew). Random weights of the shapes of real models. Each tool runs as it does by default, keys and values too:
edgepress and onnxruntime-genai keep float32, llama.cpp float16.

- ``prefill``: tokens 88 to 1,024 of a text; ``decode``: the median of 24 steps after 64, 1,024 and 4,096 tokens
- ``follow-up``: 32 more tokens after some 1,050, to the first token of the answer. edgepress finds by itself what it
  knows of a text; a program has to keep a generator of onnxruntime-genai, or a context of llama.cpp, to do the same,
  so genai is also timed with a new generator, as its examples have it
- ``cold``: from the start of a process to the first token after 64, files in the page cache; Python and the imports
  that the tool needs included, those of the benchmark not (tool_text.py)

``loss`` rows score llama.cpp's pure Q4_0 of small real models, which accuracy.py has not; all else is from its samples.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import RESULTS, SIZES, WORK, group, load, save, spread, table
from comparison import FILES, build, environment, shipped
from export_cost import checkpoint
from make_checkpoint import SHAPES as MADE
from tool_text import TOOLS

SHAPES = ("smollm2-135m", "qwen2.5-0.5b")
CASES = (  # a tool, its weights, and what accuracy.py calls them
    ("edgepress", "int4", "int4"),
    ("edgepress", "int4-128", "int4-128"),
    ("edgepress", "int8", "int8"),
    ("onnxruntime-genai", "rtn", "rtn"),
    ("llama.cpp", "Q4_0 pure", "Q4_0 pure"),
    ("llama.cpp", "Q4_K_M", "Q4_K_M"),
    ("llama.cpp", "Q8_0", "Q8_0"),
)
LENGTHS, STEPS, FOLLOW_UP, CONTEXT = (64, 1024, 4096), 24, 32, 4352
COLD_STARTS = 3
PURE = "Q4_0 pure"
Sample = Mapping[str, Any]


# ---- in a process of its own -----------------------------------------------------------------------------------------


def run_here(name: str, path: Path, threads: int, vocabulary: int) -> dict[str, Any]:
    """All that is timed of an open file."""
    tool = TOOLS[name](path, threads, CONTEXT)
    text = [int(token) for token in np.random.default_rng(0).integers(3, vocabulary, LENGTHS[-1])]
    tool.begin(text[:16])  # warm
    found: dict[str, Any] = {"prefill_s": {}, "steps_s": {}}
    held: list[int] = []
    for length in LENGTHS:
        piece = text[len(held) : length]
        start = perf_counter()
        token = tool.append(piece) if held else tool.begin(piece)
        found["prefill_s"][str(len(piece))] = perf_counter() - start
        held += piece
        seconds = found["steps_s"][str(length)] = []
        for _ in range(STEPS):
            held.append(token)
            start = perf_counter()
            token = tool.append([token])
            seconds.append(perf_counter() - start)
        if length == LENGTHS[1]:
            held += text[:FOLLOW_UP]
            start = perf_counter()
            token = tool.append(text[:FOLLOW_UP])
            found["follow_up_s"] = perf_counter() - start
            if name == "onnxruntime-genai":
                start = perf_counter()
                token = tool.begin(held)
                found["follow_up_anew_s"] = perf_counter() - start
    return found


# ---- rows ------------------------------------------------------------------------------------------------------------


def place_of(shape: str, tool: str, name: str) -> Path:
    """Where a tool's file of a shape is, made once."""
    out = WORK / f"tools-{shape}-{tool}-{name}".replace(" ", "-")
    if not (out / FILES[tool]).exists():
        out.mkdir(parents=True, exist_ok=True)
        build(tool, name, checkpoint(shape), out, Path())
        (out / "float32.gguf").unlink(missing_ok=True)
    return out / FILES[tool]


def child(script: str, *words: str | int | Path) -> str:
    """What a process of a script prints last."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, words)]
    done = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]


def start_cold(tool: str, path: Path, threads: int, vocabulary: int) -> dict[str, Any]:
    """A cold start in a process of its own: what tool_text.py says of it, and seconds from its start to its end."""
    tokens = np.random.default_rng(0).integers(3, vocabulary, LENGTHS[0])
    start = perf_counter()
    found: dict[str, Any] = json.loads(child("tool_text.py", tool, path, threads, CONTEXT, *tokens.tolist()))
    return {**found, "wall_s": perf_counter() - start}


def measure(shape: str, tool: str, name: str, threads: int) -> dict[str, Any]:
    """One row."""
    path, vocabulary = place_of(shape, tool, name), MADE[shape].vocab
    # the first fills the page cache, and makes what a first use makes
    cold = [start_cold(tool, path, threads, vocabulary)["wall_s"] for _ in range(1 + COLD_STARTS)]
    found = json.loads(child(Path(__file__).name, "--child", tool, path, threads, vocabulary))
    return {**found, "cold_s": cold[1:], "bytes": shipped(path), "load": load()}


def loss_of(model: str, data: Path) -> dict[str, object]:
    """Score llama.cpp's pure Q4_0 of a small model as accuracy.py scores all others."""
    from accuracy import scored
    from peers import llama_cpp
    from subjects import make_subject

    from edgepress.exporter import export
    from edgepress.runtime.measures.evaluate import read_corpus

    out, subject = WORK / f"tools-loss-{model}", make_subject(model, data, 1.0)
    if not (out / "bundle").exists():
        export(subject.checkpoint.directory, out=out / "bundle", recipe="fp32", threads=1)
    exact = llama_cpp.write_gguf(subject.checkpoint, out / "float32.gguf")
    path = llama_cpp.quantize(exact, out / "pure.gguf", PURE)
    peer = llama_cpp.open_peer(path, subject.checkpoint)
    return {**scored(subject, read_corpus(out / "bundle", subject.texts), "llama.cpp", PURE, peer)}


def kept() -> list[dict[str, Any]]:
    """Samples of earlier runs."""
    path = RESULTS / "tool_speed.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def report(samples: Sequence[Sample]) -> str:
    """The tables, from raw samples here and in accuracy.jsonl."""
    lines = (RESULTS / "accuracy.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    losses = {
        (one["tool"], one["name"], one["model"]): one["bits_per_byte"]
        for one in [*map(json.loads, lines), *samples]
        if "bits_per_byte" in one
    }
    header = ("shape", "threads", "tool", "weights", "MB", "prefill tokens/s")
    header += tuple(f"ms/token after {length:,}" for length in LENGTHS)
    header += ("follow-up ms", "cold start to first token, s", "load")
    rows = [row(*case, ones) for case, ones in group(
        [one for one in samples if "steps_s" in one], "shape", "threads", "tool", "name").items()]  # fmt: skip
    small = [model for model in ("demo", "tiny1m") if any(key[2] == model for key in losses)]
    scores = [
        (tool, name, *(_digits(losses.get((tool, loss, model))) for model in small)) for tool, name, loss in CASES
    ]
    names = ("tool", "weights", *(f"bits per byte, {SIZES[model]}" for model in small))
    return table(header, rows) + "\n\n" + table(names, scores)


def _digits(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def row(shape: str, threads: int, tool: str, name: str, ones: Sequence[Sample]) -> tuple[str, ...]:
    """One table row: medians, with ranges where there are several rounds."""
    tokens = LENGTHS[1] - LENGTHS[0] - STEPS
    anew = [1e3 * one["follow_up_anew_s"] for one in ones if "follow_up_anew_s" in one]
    follow_up = spread([1e3 * one["follow_up_s"] for one in ones], 0)
    return (
        *(shape, str(threads), tool, name, f"{ones[0]['bytes'] / 1e6:.0f}"),
        spread([tokens / one["prefill_s"][str(tokens)] for one in ones], 0),
        *(
            spread([1e3 * statistics.median(one["steps_s"][str(length)]) for one in ones], 1)
            for length in LENGTHS
        ),
        f"{follow_up}; anew {spread(anew, 0)}" if anew else follow_up,
        spread([statistics.median(one["cold_s"]) for one in ones]),
        spread([one["load"] for one in ones], 1),
    )  # fmt: skip


def build_all(shapes: Sequence[str], cases: Sequence[tuple[str, str]], data: Path) -> None:
    """Make what is not there yet, and score what accuracy.py has not."""
    for shape, (tool, name) in product(shapes, cases):
        print(place_of(shape, tool, name), flush=True)
    samples = kept()
    scored = {one["model"] for one in samples if "bits_per_byte" in one}
    if any(tool == "llama.cpp" for tool, _ in cases):
        samples += [loss_of(model, data) for model in ("demo", "tiny1m") if model not in scored]
        save("tool_speed", samples)


def main() -> None:
    """Build, measure what is not there yet, keep it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--tools", nargs="*", default=list(TOOLS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--build", action="store_true", help="make the files and score pure Q4_0; time nothing")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEPRESS_DATA", "../shared/data"))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        tool, path, threads, vocabulary = arguments.child
        print(json.dumps(run_here(tool, Path(path), int(threads), int(vocabulary))))
        return
    cases = [(tool, name) for tool, name, _ in CASES if tool in arguments.tools]
    if arguments.build:
        build_all(arguments.shapes, cases, arguments.data)
        return
    samples = [one for one in kept() if not arguments.again or "bits_per_byte" in one]
    rows = product(range(arguments.rounds), arguments.shapes, arguments.threads, cases)
    for turn, shape, threads, (tool, name) in rows:
        key = {"shape": shape, "threads": threads, "tool": tool, "name": name, "round": turn}
        if not any(key.items() <= one.items() for one in samples):
            samples.append(key | measure(shape, tool, name, threads))
            save("tool_speed", samples)
            print(row(shape, threads, tool, name, samples[-1:]), file=sys.stderr, flush=True)
    print(report(samples))


if __name__ == "__main__":
    main()
