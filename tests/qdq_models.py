"""Small float models to quantize, and readers of what became of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Nodes = Sequence[tuple[str, Sequence[str], str | Sequence[str], dict[str, object]]]


def save_model(
    path: Path,
    nodes: Nodes,
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    constants: Mapping[str, np.ndarray],
    *,
    opset: int = 23,
) -> Path:
    """Write a model; inputs whose names begin with ``ids`` are int32, all others float32."""

    def value(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT32 if name[:3] == "ids" else TensorProto.FLOAT, shape)

    made = [
        helper.make_node(op, ins, [outs] if isinstance(outs, str) else outs, name=f"node.{index}", **attributes)
        for index, (op, ins, outs, attributes) in enumerate(nodes)
    ]
    graph = helper.make_graph(
        made,
        "model",
        [value(*entry) for entry in inputs.items()],
        [value(*entry) for entry in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Constants by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each value."""
    return {name: node for node in model.graph.node for name in node.output}


def codes(value: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    """Asymmetric rounding by its definition, there and back, in float64 with the float32 scale that is stored."""
    top = 2**bits - 1
    scale = float(np.float32((high - low) / top))
    zero = round(-low / scale)
    return (np.clip(np.round(value.astype(np.float64) / scale) + zero, 0, top) - zero) * scale


def decibels(truth: np.ndarray, seen: np.ndarray) -> float:
    """Signal-to-noise ratio in dB."""
    truth, seen = truth.astype(np.float64), seen.astype(np.float64)
    return float(10 * np.log10((truth**2).sum() / max(float(((truth - seen) ** 2).sum()), 1e-30)))


def block(path: Path, *, sequence: int = 4, past: int = 11, seed: int = 0) -> Path:
    """A decoder layer as static graphs have it: embedding, norms, rotary, cache, mask, softmax, gated MLP, head."""
    width, heads, kv, dim, inner, vocab = 32, 4, 2, 8, 48, 40
    total, random = past + sequence, np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {"scaling": np.array(dim**-0.5, np.float32)}
    nodes: list[tuple[str, Sequence[str], str | Sequence[str], dict[str, object]]] = []

    def weight(name: str, *shape: int) -> str:
        constants[name] = (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        return name

    def shape(name: str, *dims: int) -> str:
        constants[name] = np.array(dims, np.int64)
        return name

    def add(op: str, ins: Sequence[str], out: str | Sequence[str], **attributes: object) -> str:
        nodes.append((op, ins, out, attributes))
        return out if isinstance(out, str) else out[0]

    angles = np.outer(np.arange(64), 100.0 ** -np.linspace(0, 1, dim // 2))
    constants |= {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    for norm in ("norm.1", "norm.2"):
        constants[norm] = (1 + 0.1 * random.standard_normal(width)).astype(np.float32)
    add("Gather", [weight("table", vocab, width), "ids"], "x")
    add("RMSNormalization", ["x", "norm.1"], "x.n", axis=-1, epsilon=1e-5)
    for part in ("cos", "sin"):
        add("Gather", [part, "ids.position"], f"{part}.at")
        add("Unsqueeze", [f"{part}.at", shape("one", 1)], f"{part}.t")
    for part, count in (("q", heads), ("k", kv), ("v", kv)):
        add("MatMul", ["x.n", weight(f"w.{part}", width, count * dim)], f"{part}.flat")
        add("Reshape", [f"{part}.flat", shape(f"{part}.shape", 1, sequence, count, dim)], f"{part}.4")
        add("Transpose", [f"{part}.4"], f"{part}.h" if part != "v" else "present.value", perm=[0, 2, 1, 3])
    for part, out in (("q", "q.r"), ("k", "present.key")):
        add("Split", [f"{part}.h"], [f"{part}.a", f"{part}.b"], axis=-1, num_outputs=2)
        for half, first, second, op in (("lo", "a", "b", "Sub"), ("hi", "b", "a", "Add")):
            add("Mul", [f"{part}.{first}", "cos.t"], f"{part}.{half}.c")
            add("Mul", [f"{part}.{second}", "sin.t"], f"{part}.{half}.s")
            add(op, [f"{part}.{half}.c", f"{part}.{half}.s"], f"{part}.{half}")
        add("Concat", [f"{part}.lo", f"{part}.hi"], out, axis=-1)
    for part in ("key", "value"):
        add("Concat", [f"past.{part}", f"present.{part}"], f"all.{part}", axis=2)
    add("Reshape", ["q.r", shape("q.grouped.shape", 1, kv, heads // kv * sequence, dim)], "q.g")
    add("Transpose", ["all.key"], "keys.t", perm=[0, 1, 3, 2])
    add("MatMul", ["q.g", "keys.t"], "scores.raw")
    add("Mul", ["scores.raw", "scaling"], "scores.scaled")
    add("Reshape", ["scores.scaled", shape("scores.shape", 1, heads, sequence, total)], "scores.h")
    add("Add", ["scores.h", "mask"], "scores")
    add("Softmax", ["scores"], "probabilities", axis=-1)
    add("Reshape", ["probabilities", shape("p.shape", 1, kv, heads // kv * sequence, total)], "p.g")
    add("MatMul", ["p.g", "all.value"], "mixed")
    add("Reshape", ["mixed", shape("mixed.shape", 1, heads, sequence, dim)], "mixed.h")
    add("Transpose", ["mixed.h"], "mixed.t", perm=[0, 2, 1, 3])
    add("Reshape", ["mixed.t", shape("flat.shape", 1, sequence, heads * dim)], "mixed.flat")
    add("MatMul", ["mixed.flat", weight("w.o", heads * dim, width)], "attended")
    add("Add", ["x", "attended"], "x.2")
    add("RMSNormalization", ["x.2", "norm.2"], "x.2n", axis=-1, epsilon=1e-5)
    for part in ("gate", "up"):
        add("MatMul", ["x.2n", weight(f"w.{part}", width, inner)], part)
    add("Sigmoid", ["gate"], "sigmoid")
    add("Mul", ["gate", "sigmoid"], "silu")
    add("Mul", ["silu", "up"], "gated")
    add("MatMul", ["gated", weight("w.down", inner, width)], "down")
    add("Add", ["x.2", "down"], "x.3")
    add("MatMul", ["x.3", weight("head", width, vocab)], "logits")
    inputs = {"ids": (1, sequence), "ids.position": (1, sequence), "mask": (1, 1, sequence, total)}
    inputs |= {f"past.{part}": (1, kv, past, dim) for part in ("key", "value")}
    outputs = {"logits": (1, sequence, vocab)}
    outputs |= {f"present.{part}": (1, kv, sequence, dim) for part in ("key", "value")}
    return save_model(path, nodes, inputs, outputs, constants)


def block_feed(seed: int, *, sequence: int = 4, past: int = 11) -> dict[str, np.ndarray]:
    """Random tokens after ``seed`` % ``past`` others, whose slots are open; closed ones hold what must not matter."""
    random, held = np.random.default_rng(seed), seed % past
    mask = np.full((1, 1, sequence, past + sequence), -1e4, np.float32)
    mask[..., :held] = 0
    for row in range(sequence):
        mask[0, 0, row, past : past + row + 1] = 0
    feed = {
        "ids": random.integers(0, 40, (1, sequence)).astype(np.int32),
        "ids.position": (held + np.arange(sequence, dtype=np.int32))[None],
        "mask": mask,
    }
    return feed | {f"past.{p}": random.uniform(-2, 2, (1, 2, past, 8)).astype(np.float32) for p in ("key", "value")}
