"""Do prefill and decode run at least as fast as in onnxruntime-genai, on the same bundle?

Both hold the bundle open in one process and take turns: a prompt each, then decode steps in short blocks, so that
whatever else the machine does falls on both. Before each go there is a rest: the threads of the one still spin for work
when the other begins, which made its first steps up to twice as slow. Each shape, recipe and thread count has two
processes of its own, in which the one and the other opens the bundle first: whoever packs its weights first in a
process was measured 4 to 7 % slower, also against itself. Greedy; the tokens that the two choose are compared as well.

    python benchmarks/decode_speed.py [--shapes smollm2-135m qwen2.5-0.5b] [--threads 1 2] [--turns 8]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
from common import TARGET, WORK, group, measure_command, read_sample, save, spread, table
from export_cost import checkpoint

PROMPT, STEPS, BLOCK = 256, 64, 8  # tokens of a prompt, decode steps of a turn, steps until the other's go
REST = 0.1  # s before a go: onnxruntime's threads were seen to spin for some 50 ms after their last work


@dataclass(frozen=True)
class Turn:
    """One prompt and its decode steps by one tool. ``outside_s`` is what our loop spent outside onnxruntime."""

    tool: str
    turn: int
    opened_first: str
    prefill_s: float
    steps_s: list[float]
    tokens: list[int]
    outside_s: float | None


class Ours:
    """edgepress.runtime."""

    name = "edgepress"

    def __init__(self, bundle: Path, threads: int) -> None:
        from edgepress.runtime import load

        self._model = load(bundle, threads=threads)

    def start(self, prompt: list[int]) -> None:
        """Prefill."""
        self._model.reset()
        self._logits = self._model.prefill(prompt)
        self._run = self._model.session.run_seconds

    def step(self) -> int:
        """Choose a token and compute the logits after it."""
        token = int(self._logits.argmax())
        self._logits = self._model.decode(token)
        return token

    def run_seconds(self) -> float | None:
        """Time inside onnxruntime since the prefill."""
        return self._model.session.run_seconds - self._run


class Genai:
    """onnxruntime-genai, its generator loop in C++."""

    name = "onnxruntime-genai"

    def __init__(self, bundle: Path, threads: int) -> None:
        import onnxruntime_genai

        self._library = onnxruntime_genai
        config = onnxruntime_genai.Config(str(bundle))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = onnxruntime_genai.Model(config)

    def start(self, prompt: list[int]) -> None:
        """Prefill; then the first token, whose logits are there already, so that each step runs the model once."""
        params = self._library.GeneratorParams(self._model)
        length = len(prompt) + STEPS + 2
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        self._generator = self._library.Generator(self._model, params)
        self._generator.append_tokens(np.array(prompt, np.int32))
        self._generator.generate_next_token()
        self._token = int(self._generator.get_next_tokens()[0])

    def step(self) -> int:
        """Compute the logits after the last token and choose the next."""
        token = self._token
        self._generator.generate_next_token()
        self._token = int(self._generator.get_next_tokens()[0])
        return token

    def run_seconds(self) -> float | None:
        """Not told."""
        return None


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that ``action`` took."""
    start = perf_counter()
    action()
    return perf_counter() - start


def rest() -> None:
    """Wait until no thread spins for work."""
    sleep(REST)


def decode_block(tool: Ours | Genai, seconds: list[float], tokens: list[int]) -> None:
    """Append the time and token of each of a block's steps."""
    rest()
    for _ in range(BLOCK):
        seconds.append(timed(lambda: tokens.append(tool.step())))


def measure(bundle: Path, threads: int, turns: int, first: str) -> list[Turn]:
    """Open the bundle with both, ``first`` first, and take turns; the first turn is warm-up and not returned."""
    opened = {kind.name: kind(bundle, threads) for kind in sorted((Ours, Genai), key=lambda kind: kind.name != first)}
    tools: list[Ours | Genai] = [opened[Ours.name], opened[Genai.name]]
    vocabulary = json.loads((bundle / "genai_config.json").read_text())["model"]["vocab_size"]
    prompt = [int(token) for token in np.random.default_rng(0).integers(3, vocabulary, PROMPT)]
    found = []
    for turn in range(turns + 1):
        order = tools if turn % 2 else tools[::-1]
        prefill = {}
        for tool in order:
            rest()
            prefill[tool.name] = timed(lambda tool=tool: tool.start(prompt))
        steps: dict[str, list[float]] = {tool.name: [] for tool in tools}
        tokens: dict[str, list[int]] = {tool.name: [] for tool in tools}
        for _ in range(STEPS // BLOCK):
            for tool in order:
                decode_block(tool, steps[tool.name], tokens[tool.name])
        for tool in tools:
            run, spent = tool.run_seconds(), sum(steps[tool.name])
            outside = None if run is None else spent - run
            found.append(Turn(tool.name, turn, first, prefill[tool.name], steps[tool.name], tokens[tool.name], outside))
    return [turn for turn in found if turn.turn > 0]


def bundle_of(shape: str, recipe: str) -> Path:
    """Export the random checkpoint of ``shape``, once."""
    path = WORK / f"speed-{shape}-{recipe}"
    if not path.exists():
        command = [sys.executable, "-m", "edgepress", "export", checkpoint(shape), "--target", TARGET]
        measure_command([*command, "--recipe", recipe, "--out", path])
    return path


def measure_apart(bundle: Path, threads: int, turns: int, first: str) -> list[Turn]:
    """Run :func:`measure` in a fresh process, with a cache of prepared bundles that is the benchmarks' own."""
    command = [sys.executable, __file__, "--child", str(bundle), str(threads), str(turns), first]
    environment = os.environ | {"EDGEPRESS_CACHE": str(WORK / "prepared")}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return [Turn(**entry) for entry in json.loads(output)]


def row(shape: str, recipe: str, threads: int, found: list[Turn]) -> tuple[str, ...]:
    """Return one table row: medians with ranges over turns; a ratio above 1 says that edgepress is faster."""
    ours, theirs = ([turn for turn in found if turn.tool == tool] for tool in (Ours.name, Genai.name))
    pairs = list(zip(ours, theirs, strict=True))
    prefill = [other.prefill_s / mine.prefill_s for mine, other in pairs]
    decode = [statistics.median(other.steps_s) / statistics.median(mine.steps_s) for mine, other in pairs]
    overhead = statistics.median((turn.outside_s or 0.0) / sum(turn.steps_s) for turn in ours)
    same = sum(mine.tokens == other.tokens for mine, other in pairs)
    return (
        shape,
        recipe,
        str(threads),
        *(spread([PROMPT / turn.prefill_s for turn in turns], 0) for turns in (ours, theirs)),
        spread(prefill),
        *(spread([1e3 * statistics.median(turn.steps_s) for turn in turns], 1) for turns in (ours, theirs)),
        spread(decode),
        f"{overhead:.1%}",
        f"{same} of {len(pairs)}",
    )


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The table, from raw samples."""
    found = {
        case: [read_sample(Turn, one) for one in ones]
        for case, ones in group(samples, "shape", "recipe", "threads").items()
    }
    speeds = ("edgepress prefill tokens/s", "genai prefill tokens/s", "prefill speed ÷ genai's")
    steps = ("edgepress ms/token", "genai ms/token", "decode speed ÷ genai's")
    header = ("shape", "recipe", "threads", *speeds, *steps, "own overhead", "same tokens")
    return table(header, [row(*case, turns) for case, turns in found.items()])


def main() -> None:
    """Measure in turn, keep the raw samples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["smollm2-135m", "qwen2.5-0.5b"])
    parser.add_argument("--recipes", nargs="*", default=["int4", "int4-128"])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        bundle, threads, turns, first = arguments.child
        print(json.dumps([asdict(turn) for turn in measure(Path(bundle), int(threads), int(turns), first)]))
        return
    samples: list[dict[str, object]] = []
    for shape in arguments.shapes:
        for recipe in arguments.recipes:
            for threads in arguments.threads:
                bundle = bundle_of(shape, recipe)
                found = [
                    turn
                    for first in (Ours.name, Genai.name)
                    for turn in measure_apart(bundle, threads, arguments.turns, first)
                ]
                case = {"shape": shape, "recipe": recipe, "threads": threads, "prompt": PROMPT}
                samples += [case | asdict(turn) for turn in found]
                print(row(shape, recipe, threads, found), file=sys.stderr, flush=True)
    print(f"raw samples: {save('decode_speed', samples)}")
    print(report(samples))


if __name__ == "__main__":
    main()
