"""Forms that Olive, LiteRT and ExecuTorch make, for any_model.py: each by the Python of an environment of its own.

What does not convert or run is a row with the reason, as the tool gave it. Olive's files run as ours do; LiteRT's and
ExecuTorch's in a process of their own, by their own runtimes, and what passing arrays there and back takes is not in
their times.
"""

import json
import os
import subprocess
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from any_model_subject import PEERS, Answer, Array, Form, RefusedError
from common import measure_command
from peers import serving

PACKAGES = {
    "optimum": ("optimum-onnx", "accelerate", "torch", "onnxruntime"),
    "olive": ("olive-ai", "requests", "onnxruntime", "torch"),
    "litert": ("litert-torch", "ai-edge-litert", "torch"),
    "executorch": ("executorch", "torch"),
}
"""What each environment has to have; the first names the tool's version."""
Encode = Callable[[Any], Mapping[str, Array]]
"""From a batch to arrays in the order of a module's inputs."""


def add_options(parser: ArgumentParser) -> None:
    """``--optimum PYTHON`` and so on."""
    for tool, packages in PACKAGES.items():
        parser.add_argument(f"--{tool}", metavar="PYTHON", help=f"of an environment with {', '.join(packages)}")


def versions(options: Namespace) -> dict[str, dict[str, str]]:
    """What each environment that was named has of its packages."""
    ask = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    found = {}
    for tool, packages in PACKAGES.items():
        if python := getattr(options, tool):
            run = subprocess.run([python, "-c", ask, *packages], capture_output=True, text=True, check=False)
            found[tool] = json.loads(run.stdout) if run.returncode == 0 else {"missing": reason(run.stderr)}
    return found


def reason(output: str) -> str:
    """The last line of what a failed process said that names an error, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return (errors or lines or ["no word"])[-1][:200]


def attempt(tool: str, name: str, command: list[str | Path], out: Path, opens: Callable[[int], Answer]) -> Form:
    """What ``command`` makes as a form; where it fails, a form that says why."""
    try:
        cost = measure_command(command)
    except SystemExit as failed:  # with what the tool said
        return Form(tool, name, [], opens, refused=reason(str(failed)))
    return Form(tool, name, [out], opens, cost)


def olive(python: str, how: str, source: Path, out: Path, opens: Callable[[int], Answer], *samples: Path) -> Form:
    """A file of Olive's, which ``opens`` runs."""
    command = [python, PEERS / "olive_quantize.py", how, source, out, *samples]
    return attempt("Olive, onnxruntime", f"int8 {how}", command, out, opens)


def apart(
    options: Namespace, name: str, weights: Path, work: Path, *, sizes: str, encode: Encode, samples: Path | None
) -> list[Form]:
    """What LiteRT and ExecuTorch make of a torch module: in float, and in integers, static where there are samples.

    ``sizes`` are those that LiteRT's file holds.
    """
    made = []
    integers, seen = ("int8 dynamic", []) if samples is None else ("int8 static", [samples])
    recipe = "dynamic_wi8_afp32" if samples is None else "static_wi8_ai8"
    for tool, python, script, ending, form, holds in (
        ("LiteRT", options.litert, PEERS / "litert_apart.py", "tflite", recipe, [sizes]),
        ("ExecuTorch, XNNPACK", options.executorch, PEERS / "executorch_apart.py", "pte", integers.split()[1], []),
    ):
        for label, how, looks in ("fp32", "fp32", []), (integers, form, seen):
            if python:
                out = work / f"{how}.{ending}"
                command = [python, script, "make", name, weights, how, out, *holds, *looks]
                made.append(attempt(tool, label, command, out, partial(Apart, python, script, out, encode)))
    return made


@dataclass
class Apart:
    """A model in a process of another Python; ``on_the_way`` are seconds of the last call that passing arrays took."""

    python: str
    script: Path
    file: Path
    encode: Encode
    threads: int
    on_the_way: float = 0.0

    def __post_init__(self) -> None:
        reads, writes = os.pipe()
        command = [self.python, self.script, "serve", self.file, str(self.threads), str(writes)]
        self._log = self.file.with_suffix(".log")
        with self._log.open("wb") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "pass_fds": [writes]}
            self._process: subprocess.Popen[bytes] = subprocess.Popen(command, **pipes)
        os.close(writes)
        self._answers = os.fdopen(reads, "rb")
        try:
            self._answer()
        except RefusedError:
            self.close()
            raise

    def _answer(self) -> dict[str, Array]:
        found = serving.read(self._answers)
        if found is None:
            self._process.wait()
            raise RefusedError(reason(self._log.read_text(errors="replace")))
        return found

    def __call__(self, batch: Any) -> Array:
        """What the process makes of a batch."""
        feed = self.encode(batch)
        start = time.perf_counter()
        assert self._process.stdin is not None
        serving.write(self._process.stdin, feed)
        found = self._answer()
        self.on_the_way = time.perf_counter() - start - float(found["seconds"])
        return found["found"]

    def close(self) -> None:
        """End the process."""
        self._answers.close()
        self._process.communicate()
