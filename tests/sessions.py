"""Bundles run by others than our runtime: plain onnxruntime, and onnxruntime-genai."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
SLACK = 3  # entries that memory of a window has beyond it here; the operator takes any number


def empty_states(session: onnxruntime.InferenceSession, batch: int = 1) -> dict[str, np.ndarray]:
    """What a graph reads before the first token; a cache of n tokens' window has the axis ``window_n``."""

    def size(axis: int | str) -> int:
        if isinstance(axis, int):
            return axis
        return int(axis.removeprefix("window_")) + SLACK if axis.startswith("window_") else sizes[axis]

    sizes = {"batch": batch, "past": 0}
    inputs = [value for value in session.get_inputs() if value.name not in ("input_ids", "attention_mask")]
    return {value.name: np.zeros(list(map(size, value.shape)), FLOATS[value.type]) for value in inputs}


def graph_logits(
    bundle: Path, pieces: Sequence[np.ndarray], file: str = "model.onnx", adapter: Path | None = None
) -> np.ndarray:
    """Logits of every position, (length, vocabulary), from plain onnxruntime, a piece of the text at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    start = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([0], np.int64))
    options.add_initializer("logits_start", start)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(bundle / file, options, providers=["CPUExecutionProvider"])
    run = onnxruntime.RunOptions()
    if adapter is not None:
        opened = onnxruntime.LoraAdapter()
        opened.Load(str(adapter))
        run.add_active_adapter(opened)
    past = empty_states(session)
    rows, length = [], 0
    for piece in pieces:
        length += len(piece)
        mask = np.ones((1, length), np.int64)
        logits, *present = session.run(None, {"input_ids": piece[None], "attention_mask": mask, **past}, run)
        past = dict(zip(past, present, strict=True))
        rows.append(logits[0])
    return np.concatenate(rows)


def greedy_tokens(bundle: Path, prompt: np.ndarray, steps: int, file: str = "model.onnx") -> list[int]:
    """``prompt`` and the ``steps`` likeliest tokens after it, from plain onnxruntime."""
    tokens, pieces = list(prompt), [prompt]
    for _ in range(steps):
        tokens.append(int(graph_logits(bundle, pieces, file)[-1].argmax()))
        pieces.append(np.array(tokens[-1:]))
    return tokens


def genai_tokens(bundle: Path, prompt: np.ndarray, steps: int, adapter: Path | None = None) -> list[int]:
    """The same from onnxruntime-genai, which ends at the end-of-sequence token."""
    import onnxruntime_genai as genai

    model = genai.Model(str(bundle))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + steps, do_sample=False)
    generator = genai.Generator(model, parameters)
    if adapter is not None:
        adapters = genai.Adapters(model)
        adapters.load(str(adapter), "one")
        generator.set_active_adapter(adapters, "one")
    generator.append_tokens(prompt.astype(np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return list(generator.get_sequence(0))
