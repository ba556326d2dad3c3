"""Native: speed and memory by the runner without an interpreter (runtime/native/), which ``--native`` names.

It opens the bundle as it is, without the prepared form. Each prompt length is a process of its own, started beside the
one that asks; memory is therefore that of a program in C++ alone.
"""

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.calls import Answer, Arrays
from edgepress.errors import CheckFailed
from edgepress.runtime.config import read_config
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import Under, opening, tell, wait_until_cool
from edgepress.runtime.profile.workloads.language_model import random_tokens
from edgepress.runtime.profile.workloads.workload import Opening

_PHASES = ("before load", "loaded", "prefilled", "decoded")
_RUNS = 0o700  # what a device's owner may do with a program that was brought there


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """One round: each prompt length ``turns`` times, and what follows the longest."""
    cooled = wait_until_cool(arguments["cool_celsius"])
    how = opening(arguments)
    how.keep_to_cores()
    program, longest = _program(arguments["native"]), max(arguments["prompt_lengths"])
    vocabulary = read_config(Path(how.bundle), how.graph).vocab_size
    for length in arguments["prompt_lengths"]:
        count = arguments["decode_tokens"] if length == longest else 0
        command = _command(program, how, random_tokens(vocabulary, length), count, arguments["turns"])
        with Under(how.cores_used) as under:
            found = _run(command)
        about = {"length": length, "graph": found["graph"], "onnxruntime": found["onnxruntime"]}
        tell("load", {"load_seconds": [found["load_seconds"]]}, {**about, "cooled": cooled}, under)
        tell("prefill", {"ttft_seconds": found["ttft_seconds"]}, about, under)
        if count:
            tell("decode", {"step_seconds": np.concatenate(found["step_seconds"]).tolist()}, about, under)
            for phase in _PHASES:
                sizes = {name: [float(size)] for name, size in found["memory"][phase].items()}
                tell("memory", sizes, {**about, "phase": phase})
    return {}, {}


def _command(program: Path, how: Opening, tokens: list[int], count: int, turns: int) -> list[str]:
    words = [str(program), how.bundle, "--tokens", ",".join(map(str, tokens)), "--decode", str(count)]
    words += ["--turns", str(turns), "--threads", str(how.cores_used), "--context", str(how.context)]
    words += [] if how.graph is None else ["--graph", how.graph]
    return [*words, "--onnxruntime", str(_library())]


def _program(given: str | None) -> Path:
    """The runner on this device, which may be run there."""
    if given is None:
        raise CheckFailed("there is no native runner; build it (runtime/native/README.md) and give it by --native FILE")
    path = Path(given)
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | _RUNS)
        except OSError as error:
            raise CheckFailed(f"{path} cannot be made a program: {error}") from None
    return path


def _library() -> Path:
    """onnxruntime's library in the package that runs here, which is not loaded for that."""
    found = importlib.util.find_spec("onnxruntime")
    places = [] if found is None else list(found.submodule_search_locations or ())
    for place in places:
        for library in sorted(Path(place, "capi").glob("libonnxruntime.so*")):
            return library
    raise CheckFailed("onnxruntime's package has no libonnxruntime.so here, which the native runner opens")


def _run(command: list[str]) -> dict[str, Any]:
    """What the runner says.

    Raises:
        CheckFailed: it does not run here, or refuses.

    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise CheckFailed(f"{command[0]} does not run here: {error}") from None
    if done.returncode:
        raise CheckFailed(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise CheckFailed(f"{command[0]} is no native runner: it prints {done.stdout[:80]!r}") from None
    return found


PASS = Pass(
    "native",
    "speed and memory by a runner without an interpreter",
    measure,
    ("prompt_lengths", "decode_tokens", "turns", "cool_celsius", "native"),
    Rounds.LEAST,
    optional=True,
    only="language model",
)
