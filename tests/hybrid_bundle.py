"""A bundle whose model has a state that grows and one that does not: one layer of attention beside a convolution.

It is written with onnx alone, so that a session meets a model that no exporter of ours made; :func:`hybrid_logits` is
the same arithmetic in float64, over the whole text at once.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress.bundle.manifest import MANIFEST_NAME, Manifest, describe_files
from edgepress.bundle.states import State

VOCABULARY, WIDTH, KERNEL, CONTEXT = 50, 16, 3, 64
STATES = (
    State("layers.0.key", "past.key", "present.key", ("batch", 1, "past", WIDTH), "float32", "key-value"),
    State("layers.0.value", "past.value", "present.value", ("batch", 1, "past", WIDTH), "float32", "key-value"),
    State("layers.0.conv", "past.conv", "present.conv", ("batch", WIDTH, KERNEL - 1), "float32", "convolution"),
)


def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = {
        "table": (VOCABULARY, WIDTH),
        "qkv": (WIDTH, 3 * WIDTH),
        "taps": (WIDTH, 1, KERNEL),
        "head": (WIDTH, VOCABULARY),
    }
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def hybrid_logits(tokens: np.ndarray) -> np.ndarray:
    """Logits of every position, (length, vocabulary)."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    x = w["table"][tokens]  # (length, width)
    q, k, v = np.split(x @ w["qkv"], 3, axis=1)
    scores = q @ k.T / np.sqrt(WIDTH)
    scores[np.triu_indices(len(tokens), 1)] = -np.inf
    p = np.exp(scores - scores.max(1, keepdims=True))
    padded = np.concatenate([np.zeros((KERNEL - 1, WIDTH)), x])
    convolved = sum(padded[tap : tap + len(x)] * w["taps"][:, 0, tap] for tap in range(KERNEL))
    return (p / p.sum(1, keepdims=True) @ v + convolved) @ w["head"]


def write_hybrid(folder: Path, *, states: tuple[State, ...] = STATES) -> Path:
    """Write the bundle into ``folder``, which must not exist yet, and return it."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(_model().SerializeToString())
    model = {"vocab_size": VOCABULARY, "context_length": CONTEXT, "decoder": {"filename": "model.onnx"}}
    (folder / "genai_config.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    manifest = Manifest(
        model_type="hybrid", targets={}, recipe={}, versions={}, source={}, tensors=(), totals={}, states=states,
        files=describe_files(folder),
    )  # fmt: skip
    (folder / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    return folder


def _model() -> onnx.ModelProto:
    """The graph.

    ::

        input_ids ─ Gather ─┬ MatMul qkv ─ GroupQueryAttention ───────────────────────┐
                            └ Transpose ─ Concat(past.conv, ·) ─ Conv ─ Transpose ─ Add ─ Slice(logits_start) ─ MatMul
                                            └ Slice ─ present.conv
    """
    integers = {
        "logits_start": [-1], "to_the_end": [2**62], "axis_1": [1], "axis_2": [2], "from": [1 - KERNEL], "one": [1]
    }  # fmt: skip
    constants = [numpy_helper.from_array(array, name) for name, array in weights().items()]
    constants += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in integers.items()]

    def node(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), outputs.split(), outputs.split(maxsplit=1)[0], **attributes)

    nodes = [
        node("ReduceSum", "attention_mask one", "lengths", keepdims=0),
        node("Sub", "lengths one", "before"),
        node("Cast", "before", "seqlens", to=TensorProto.INT32),
        node("Shape", "attention_mask", "total_1", start=1, end=2),
        node("Squeeze", "total_1", "total_64"),
        node("Cast", "total_64", "total", to=TensorProto.INT32),
        node("Gather", "table input_ids", "x"),
        node("MatMul", "x qkv", "projected"),
        helper.make_node(
            "GroupQueryAttention",
            ["projected", "", "", "past.key", "past.value", "seqlens", "total"],
            ["attended", "present.key", "present.value"],
            "attended",
            domain="com.microsoft",
            num_heads=1,
            kv_num_heads=1,
        ),
        node("Transpose", "x", "columns", perm=[0, 2, 1]),
        node("Concat", "past.conv columns", "window", axis=2),
        node("Slice", "window from to_the_end axis_2", "present.conv"),
        node("Conv", "window taps", "convolved_columns", group=WIDTH),
        node("Transpose", "convolved_columns", "convolved", perm=[0, 2, 1]),
        node("Add", "attended convolved", "mixed"),
        node("Slice", "mixed logits_start to_the_end axis_1", "wanted"),
        node("MatMul", "wanted head", "logits"),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", length])
              for name, length in (("input_ids", "sequence"), ("attention_mask", "total"))]  # fmt: skip
    inputs += [helper.make_tensor_value_info(state.input, TensorProto.FLOAT, list(state.shape)) for state in STATES]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, VOCABULARY])]
    outputs += [
        helper.make_tensor_value_info(state.output, TensorProto.FLOAT, list(state.output_shape)) for state in STATES
    ]
    graph = helper.make_graph(nodes, "hybrid", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
