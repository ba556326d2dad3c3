"""Steps over several tokens on emulated ARM: where they are called exact, they have the bits of single steps."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arm64_rows
import numpy as np
import onnx
import pytest
import tiny_models
from guests import Guests
from numpy.typing import NDArray
from onnx import TensorProto, helper
from two_graphs import FLOAT16_FILE

from edgepress.exporter import export
from edgepress.targets.emulator import Call, Installation
from edgepress.targets.emulator.model import run_model

Arrays = dict[str, NDArray[Any]]
HEADS, KV_HEADS, WIDTH = 4, 2, 64
PASTS = (1, 24, 72, 145)  # tokens before: kernels add up in pieces, and a length may end within one
MOST = 3  # tokens of a step


def attention(kind: int, rows: int, past: int) -> onnx.ModelProto:
    """GroupQueryAttention of ``rows`` tokens after ``past`` others."""
    kept, wide = [1, KV_HEADS, past, WIDTH], [1, rows, KV_HEADS * WIDTH]
    shapes = {"q": [1, rows, HEADS * WIDTH], "k": wide, "v": wide, "past_k": kept, "past_v": kept}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    lengths = {"last": [1], "all": []}
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in lengths.items()]
    names = [value.name for value in inputs]
    heads = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
    node = helper.make_node("GroupQueryAttention", names, ["y", "new_k", "new_v"], domain="com.microsoft", **heads)
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in node.output]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def steps(rows: int, past: int, run: Callable[[int, int, Arrays], Arrays]) -> Iterator[NDArray[Any]]:
    """What ``rows`` tokens attend to in one call, and one after the other."""
    generator = np.random.default_rng(past)
    shapes = {"q": (1, rows, HEADS * WIDTH), **dict.fromkeys("kv", (1, rows, KV_HEADS * WIDTH))}
    tokens = {name: generator.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    kept = {f"past_{name}": generator.standard_normal((1, KV_HEADS, past, WIDTH)).astype(np.float16) for name in "kv"}

    def call(count: int, before: int, feed: Arrays) -> Arrays:
        total = before + count
        return run(count, before, {**feed, "last": np.array([total - 1], np.int32), "all": np.array(total, np.int32)})

    yield call(rows, past, tokens | kept)["y"]
    single = []
    for row in range(rows):
        found = call(1, past + row, {name: value[:, row : row + 1] for name, value in tokens.items()} | kept)
        kept = {f"past_{name}": found[f"new_{name}"] for name in "kv"}
        single.append(found["y"])
    yield np.concatenate(single, 1)


@pytest.mark.parametrize("cpu", ["cortex-a76", "neoverse-n2"])
def test_attention_of_two_tokens_in_float16_has_the_bits_of_one(
    emulator: Installation, one_start: Guests, tmp_path: Path, cpu: str
) -> None:
    """What steps over two tokens rest on, on processors that compute in float16."""

    def run(rows: int, past: int, feed: Arrays) -> Arrays:
        path = tmp_path / f"{rows}-{past}.onnx"
        onnx.save(attention(TensorProto.FLOAT16, rows, past), path)
        [(_, found)] = one_start.run(
            emulator, cpu, [Call(run_model, {"model": str(path), "batch": None, "threads": 1}, feed)]
        )
        return found

    for past in PASTS:
        together, one_by_one = steps(2, past, run)
        assert np.array_equal(together, one_by_one), past
        assert np.isfinite(together).all()
        assert together.any()


def test_steps_that_are_called_exact_when_a_model_is_opened_are_so_on_other_texts(
    emulator: Installation, one_start: Guests, tmp_path: Path
) -> None:
    """In float16 a step over two tokens is, with weights of 4 bits, and one over three is not."""
    bundle = tmp_path / "bundle"
    export(tiny_models.save("llama", tmp_path / "checkpoint"), out=bundle, recipe="int4", target="arm64-cpu")
    asked = {"bundle": str(bundle), "graph": FLOAT16_FILE, "most": MOST}
    [(found, _)] = one_start.run(emulator, "cortex-a76", [Call(arm64_rows.exact_steps, asked)])
    assert found["exact"] >= 2
    for rows in range(2, found["exact"] + 1):
        assert all(found["same"][str(rows)]), found
