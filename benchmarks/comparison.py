"""Size, accuracy, speed and memory of one model by four tools: the table of the README.

python benchmarks/comparison.py --optimum ENVIRONMENT/bin/python [--rounds 3]
python benchmarks/comparison.py --optimum ENVIRONMENT/bin/python --only-loss     # optimum's; what was timed stays

Size, speed and memory are those of the shape of SmolLM2-135M with random weights, each tool with its own file in its
own runtime and process, on one thread. Speed is in CPU seconds, which other work on the machine changes less than time.
The loss is that of the demo model, from accuracy.py's samples; only what it has not is scored here. Optimum needs an
environment of its own (peers/optimum_apart.py); llama.cpp needs the [bench] extra.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from common import RESULTS, TARGET, WORK, group, save, spread, table
from decode_speed import Genai, Ours
from export_cost import checkpoint
from peers.optimum_apart import resident

SHAPE, PROMPT, STEPS = "smollm2-135m", 256, 64
OPTIMUM = "int8, dynamic"
CASES = (
    # tool, name, what accuracy.py calls it
    ("edgepress", "int4", "int4"),
    ("edgepress", "int4-128", "int4-fast"),
    ("onnxruntime-genai", "rtn", "rtn"),
    ("onnxruntime-genai", "k_quant_mixed", "k_quant_mixed"),
    ("llama.cpp", "Q4_0", "Q4_0"),
    ("llama.cpp", "Q4_K_M", "Q4_K_M"),
    ("optimum", OPTIMUM, OPTIMUM),
)
Sample = Mapping[str, Any]


class LlamaCpp:
    """llama.cpp with its own defaults on the CPU, but keys and values in float32 as the others have them."""

    def __init__(self, path: Path, threads: int, prompt: int = PROMPT, steps: int = STEPS) -> None:
        from peers.llama_cpp_text import Text

        self._text = Text(path, threads, prompt + steps + 2, batch=prompt, float32=True)

    def start(self, prompt: list[int]) -> None:
        """Prefill."""
        self._text.append(prompt)

    def step(self) -> int:
        """Choose a token and compute the logits after it."""
        token = self._text.likeliest()
        self._text.append([token])
        return token


TOOLS: dict[str, type[Ours] | type[Genai] | type[LlamaCpp]] = {
    "edgepress": Ours,
    "onnxruntime-genai": Genai,
    "llama.cpp": LlamaCpp,
}


def prompt() -> list[int]:
    """The same random tokens for all."""
    return [int(token) for token in np.random.default_rng(0).integers(3, 49152, PROMPT)]


def run_here(tool: str, path: Path) -> dict[str, object]:
    """Open ``path`` with a tool, pass the prompt and decode, in this process."""
    if tool == "onnxruntime-genai":
        import onnxruntime_genai  # noqa: F401 - its library is no memory of the model
    before = resident()
    opened = TOOLS[tool](path, 1)
    start = process_time()
    opened.start(prompt())
    prefill, steps = process_time() - start, []
    for _ in range(STEPS):
        start = process_time()
        opened.step()
        steps.append(process_time() - start)
    return {"prefill_cpu_s": prefill, "steps_cpu_s": steps, "resident_bytes": resident() - before}


def build(tool: str, name: str, source: Path, out: Path, optimum: Path) -> None:
    """Make a tool's file of a checkpoint in the empty folder ``out``."""
    if tool == "edgepress":
        command = [sys.executable, "-m", "edgepress", "export", source, "--recipe", name, "--out", out / "bundle"]
        command += ["--target", TARGET]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        command = [sys.executable, "-m", "edgepress", "prepare", out / "bundle", "--no-tune"]
        subprocess.run(command, check=True, env=environment())
    elif tool == "optimum":
        apart(optimum, "build", source, out)
    else:
        from edgepress.exporter.source.checkpoint import Checkpoint

        opened = Checkpoint.open(source)
        if tool == "llama.cpp":
            from peers import llama_cpp

            exact = llama_cpp.write_gguf(opened, out / "float32.gguf")
            llama_cpp.quantize(exact, out / "model.gguf", name)
        else:
            from peers import genai_builder

            genai_builder.build(opened, out / "bundle", name)


def apart(python: Path, *words: str | Path, given: str = "") -> str:
    """Run peers/optimum_apart.py in its environment and return what it prints last."""
    command = [python, Path(__file__).parent / "peers" / "optimum_apart.py", *words]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), input=given, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def environment() -> dict[str, str]:
    """Of a process that runs a tool: one thread, and prepared forms in a folder of the benchmarks.

    Python keeps what it compiled there too, whatever the shell says: an installed package comes with it.
    """
    kept = {"EDGEPRESS_CACHE": str(WORK / "prepared"), "PYTHONPYCACHEPREFIX": str(WORK / "bytecode")}
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return given | kept | {"OMP_NUM_THREADS": "1"}


FILES = {"edgepress": "bundle", "onnxruntime-genai": "bundle", "llama.cpp": "model.gguf", "optimum": "int8"}
"""What of a build's folder is shipped."""


def shipped(path: Path) -> int:
    """Bytes of a file, or of a folder's files but its tokenizer's."""
    found = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in found if "token" not in entry.name)


def measure(tool: str, path: Path, optimum: Path) -> dict[str, object]:
    """One process that runs a tool's file."""
    if tool == "optimum":
        return dict(json.loads(apart(optimum, "run", path.parent, str(STEPS), given=json.dumps(prompt()))))
    command = [sys.executable, __file__, "--child", tool, str(path)]
    output = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def loss_of_optimum(optimum: Path, data: Path) -> dict[str, object]:
    """Score optimum's int8 model of the demo model as accuracy.py scores all others."""
    import onnx
    from accuracy import scored
    from peers.genai_builder import Logits
    from peers.peer import Peer, parameters
    from subjects import make_subject

    from edgepress.exporter import export
    from edgepress.runtime.measures.evaluate import read_corpus

    out = WORK / "comparison-demo"
    shutil.rmtree(out, ignore_errors=True)
    subject = make_subject("demo", data, 1.0)
    versions = json.loads(apart(optimum, "build", subject.checkpoint.directory, out))
    export("demo", out=out / "fp32", recipe="fp32", threads=1)
    path = out / "int8" / "model_quantized.onnx"
    stored = sum(len(onnx.numpy_helper.to_array(one).tobytes()) for one in onnx.load(path).graph.initializer)
    config = subject.checkpoint.config
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    peer = Peer(Logits(path, head_dim), 8 * stored / parameters(subject.checkpoint), {})
    return {**scored(subject, read_corpus(out / "fp32", subject.texts), "optimum", OPTIMUM, peer), "versions": versions}


def timed_earlier() -> list[dict[str, object]]:
    """What the committed samples have of speed and memory."""
    lines = (RESULTS / "comparison.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    return [found for found in map(json.loads, lines) if "round" in found]


def time_all(optimum: Path, rounds: int) -> list[dict[str, object]]:
    """Build what is not there yet, and measure the tools in turn."""
    source, places = checkpoint(SHAPE), {}
    for tool, name, _ in CASES:
        places[tool, name] = out = WORK / f"comparison-{tool}-{name}".replace(", ", "-")
        if not out.exists():
            out.mkdir(parents=True)
            build(tool, name, source, out, optimum)
    samples: list[dict[str, object]] = []
    for turn in range(rounds):
        for tool, name, _ in CASES:
            path = places[tool, name] / FILES[tool]
            key = {"shape": SHAPE, "tool": tool, "name": name, "round": turn, "bytes": shipped(path)}
            samples.append(key | measure(tool, path, optimum))
            print({name: one for name, one in samples[-1].items() if name != "steps_cpu_s"}, flush=True)
    return samples


def main() -> None:
    """Build, measure in turn, keep the raw samples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimum", type=Path, help="Python of an environment with optimum-onnx")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-loss", action="store_true", help="score optimum's model; what was timed earlier stays")
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEPRESS_DATA", "../shared/data"))
    parser.add_argument("--child", nargs=2, metavar=("TOOL", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_here(arguments.child[0], Path(arguments.child[1]))))
        return
    if arguments.optimum is None:
        parser.error("--optimum is needed: the Python of an environment with optimum-onnx")
    samples = [loss_of_optimum(arguments.optimum, arguments.data)]
    samples += timed_earlier() if arguments.only_loss else time_all(arguments.optimum, arguments.rounds)
    print(f"raw samples: {save('comparison', samples)}")
    print(report(samples))


HEADER = ("tool", "weights", "bits a weight, demo (1.9 M weights)", "KL (nats), demo (1.9 M weights)", "MB, 135 M")
HEADER += ("prompt tokens a CPU second, 135 M", "CPU ms a token, 135 M", "MB in memory, 135 M")


def report(samples: Sequence[Sample]) -> str:
    """The table, from raw samples here and in accuracy.jsonl."""
    lines = (RESULTS / "accuracy.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    scores = [*map(json.loads, lines), *(one for one in samples if "kl" in one)]
    losses = {(one["tool"], one["name"]): one for one in scores if one["model"] == "demo"}
    turns = group((one for one in samples if "round" in one), "tool", "name")
    return table(HEADER, [row(tool, loss, losses.get((tool, loss)), turns[tool, name]) for tool, name, loss in CASES])


def row(tool: str, name: str, loss: Sample | None, turns: Sequence[Sample]) -> tuple[str, ...]:
    """One table row: medians with ranges over rounds."""
    scored = ("not measured",) * 2 if loss is None else (f"{loss['bits_per_weight']:.2f}", f"{loss['kl']:.4f}")
    return (
        tool,
        name,
        *scored,
        f"{turns[0]['bytes'] / 1e6:.0f}",
        spread([PROMPT / one["prefill_cpu_s"] for one in turns], 0),
        spread([1e3 * statistics.median(one["steps_cpu_s"]) for one in turns], 1),
        spread([one["resident_bytes"] / 1e6 for one in turns], 0),
    )


if __name__ == "__main__":
    main()
