"""What the peers do inside an emulated machine, where there is edgepress's runtime and what was sent with them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgepress.calls.guest import Answer, Arrays
from edgepress.errors import CheckFailed
from edgepress.runtime.measures.counting.operators import by_operator, fewest, read_profile
from edgepress.runtime.measures.counting.overhead import measure_overhead

ROUNDS = {"decode": 3, "prefill": 1}  # that are counted of each call, after one that is not
_PIECE = 64  # tokens of a text that are computed at once: some models give logits of all of them


def run_llama_cpp(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Run ``count_llama`` of a build on a model, for ``pairs`` of context and tokens; what it prints."""
    folder = f"/llama/{arguments['build']}"
    pairs = [f"{context}:{tokens}" for context, tokens in arguments["pairs"]]
    done = subprocess.run(
        [f"{folder}/count_llama", f"/models/{arguments['model']}.gguf", *pairs],
        input=" ".join(map(str, arguments["tokens"])),
        env=os.environ | {"LD_LIBRARY_PATH": folder},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CheckFailed(f"llama.cpp ended with {done.returncode}: {done.stderr[-1000:]}")
    return json.loads(done.stdout), {}


def run_genai(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Open a ``bundle`` with onnxruntime-genai's generator and append tokens, for ``pairs`` of context and tokens.

    Contexts grow from one pair to the next, of one text. Each call after one that is not counted; then all again in a
    model that profiles itself, for the time by operator.
    """
    sys.path.insert(0, "/genai")
    pairs, text = arguments["pairs"], np.array(arguments["tokens"], np.int32)
    start = perf_counter_ns()
    model = _open(arguments["bundle"], {})
    load = perf_counter_ns() - start
    counts = _append(model, pairs, text)
    del model  # two of them may not fit
    with tempfile.TemporaryDirectory() as folder:
        model = _open(arguments["bundle"], {"enable_profiling": f"{folder}/profile"})
        _append(model, pairs, text)
        del model  # it writes the profile
        [path] = Path(folder).iterdir()
        runs = read_profile(path)
    overhead, calls, position = measure_overhead(), [], 0
    for (context, tokens), instructions in zip(pairs, counts, strict=True):
        del runs[: len(_pieces(position, context))]
        kernels = fewest(runs[1 : 1 + _rounds(tokens)])
        costs = by_operator(replace(kernel, instructions=overhead.taken_off(kernel)) for kernel in kernels)
        operators = {name: cost.instructions for name, cost in costs.items()}
        del runs[: 1 + _rounds(tokens)]
        calls.append({"context": context, "tokens": tokens, "instructions": instructions, "operators": operators})
        position = context
    if runs:
        raise CheckFailed(f"onnxruntime-genai ran its model {len(runs)} times more than it was asked to")
    return {"load": load, "calls": calls}, {}


def _open(bundle: str, options: dict[str, str]) -> Any:
    """onnxruntime-genai's model, with one thread."""
    import onnxruntime_genai

    config = onnxruntime_genai.Config(bundle)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1, **options}}}}))
    return onnxruntime_genai.Model(config)


def _append(model: Any, pairs: Sequence[tuple[int, int]], text: "np.typing.NDArray[np.int32]") -> list[list[int]]:
    """Nanoseconds of each round of each pair."""
    import onnxruntime_genai

    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=text.size, do_sample=False)
    generator, position, found = onnxruntime_genai.Generator(model, params), 0, []
    for context, tokens in pairs:
        for piece in _pieces(position, context):
            generator.append_tokens(text[piece])
        position, rounds = context, []
        for _ in range(1 + _rounds(tokens)):
            start = perf_counter_ns()
            generator.append_tokens(text[context : context + tokens])
            rounds.append(perf_counter_ns() - start)
            generator.rewind_to(context)
        found.append(rounds[1:])
    return found


def _pieces(start: int, stop: int) -> list[slice]:
    """What a text is appended in from ``start`` to ``stop``."""
    return [slice(first, min(first + _PIECE, stop)) for first in range(start, stop, _PIECE)]


def _rounds(tokens: int) -> int:
    return ROUNDS["decode" if tokens == 1 else "prefill"]
