"""Small bundles with the graph shapes that preparing deals with, and what opening them computes."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgepress.bundle.manifest import Manifest, describe_files
from edgepress.runtime.prepared import Prepared, open_session

VOCABULARY, HIDDEN = 256, 96
IDS = np.array([[3, 0, 255, 17, 3]], np.int64)


@dataclass(frozen=True)
class Shape:
    """A table of VOCABULARY rows, one product to ``width``, one back, and a head on the table's own bytes.

    With ``experts`` the two products are theirs, two of them for each token, gated.
    """

    bits: int = 4
    block: int = 32
    hidden: int = HIDDEN
    width: int = 160
    zero_points: bool = False
    bias: bool = False
    accuracy_level: int = 4
    kept: bool = False  # weights in float32: Gather and FusedMatMul on the same constant
    half_scales: bool = False  # stored in float16, and cast
    branch: bool = False  # an If whose branches read the kept constants as well
    experts: int = 0


class _Builder:
    def __init__(self, folder: Path, shape: Shape, seed: int) -> None:
        self.shape, self.random = shape, np.random.default_rng(seed)
        self.data = (folder / "model.onnx.data").open("wb")
        self.constants: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.casts: list[onnx.NodeProto] = []

    def store(self, array: NDArray[np.generic]) -> tuple[int, int]:
        self.data.seek(-(-self.data.tell() // 64) * 64)
        start = self.data.tell()
        self.data.write(array.tobytes())
        return start, array.nbytes

    def external(self, name: str, kind: int, sizes: list[int], place: tuple[int, int]) -> str:
        tensor = TensorProto(name=name, data_type=kind, dims=sizes, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "model.onnx.data"), ("offset", str(place[0])), ("length", str(place[1]))):
            tensor.external_data.add(key=key, value=value)
        self.constants.append(tensor)
        return name

    def scales(self, name: str, sizes: list[int], place: tuple[int, int]) -> str:
        """Scales as a product reads them: stored so, or cast from float16."""
        if not self.shape.half_scales:
            return self.external(name, TensorProto.FLOAT, sizes, place)
        stored = self.external(f"{name}.half", TensorProto.FLOAT16, sizes, place)
        self.casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
        return name

    def matrix(self, rows: int, columns: int) -> dict[str, tuple[int, int]]:
        """Codes, scales and perhaps zero points of a matrix of random numbers, or of several below each other."""
        blocks, per_byte = -(-columns // self.shape.block), 8 // self.shape.bits
        codes = self.random.integers(0, 256, rows * blocks * self.shape.block // per_byte, np.uint8)
        scales = self.random.uniform(0.005, 0.02, (rows, blocks)).astype(np.float32) / (16 if per_byte == 1 else 1)
        scales = scales.astype(np.float16)
        scales = scales if self.shape.half_scales else scales.astype(np.float32)
        stored = {"values": self.store(codes), "scales": self.store(scales)}
        if self.shape.zero_points:
            stored["zeros"] = self.store(self.random.integers(0, 256, rows * -(-blocks // per_byte), np.uint8))
        return stored

    def product(self, x: str, name: str, rows: int, columns: int, stored: dict[str, tuple[int, int]]) -> str:
        blocks = -(-columns // self.shape.block)
        sizes = {"values": [rows, blocks, self.shape.block * self.shape.bits // 8], "scales": [rows, blocks],
                 "zeros": [rows, -(-blocks * self.shape.bits // 8)]}  # fmt: skip
        inputs = [x]
        for part, place in stored.items():
            store = self.scales if part == "scales" else partial(self.external, kind=TensorProto.UINT8)
            inputs.append(store(f"{name}.{part}", sizes=sizes[part], place=place))
        if self.shape.bias:
            bias = self.store(self.random.standard_normal(rows, np.float32))
            inputs += [""] * (5 - len(inputs)) + [self.external(f"{name}.bias", TensorProto.FLOAT, [rows], bias)]
        node = helper.make_node("MatMulNBits", inputs, [name], name, domain="com.microsoft", N=rows, K=columns)
        for key in ("bits", "block_size", "accuracy_level"):
            value = self.shape.block if key == "block_size" else getattr(self.shape, key)
            node.attribute.append(helper.make_attribute(key, value))
        self.nodes.append(node)
        return name

    def quantized(self) -> None:
        hidden, width = self.shape.hidden, self.shape.width
        table = self.matrix(VOCABULARY, hidden)
        if self.shape.experts:
            self.mixture()
        else:
            self.product("start", "up", width, hidden, self.matrix(width, hidden))
            self.nodes.append(helper.make_node("Sigmoid", ["up"], ["gate"]))
            self.product("gate", "down", hidden, width, self.matrix(hidden, width))
        self.nodes.append(helper.make_node("Add", ["down", "start"], ["end"]))
        self.product("end", "logits", VOCABULARY, hidden, table)
        self.embed(table, "start" if hidden % self.shape.block == 0 else "padded")
        if hidden % self.shape.block:
            for name, number in (("zero", 0), ("hidden", hidden), ("last", 2)):
                self.constants.append(helper.make_tensor(name, TensorProto.INT64, [1], [number]))
            self.nodes.insert(1, helper.make_node("Slice", ["padded", "zero", "hidden", "last"], ["start"]))

    def mixture(self) -> None:
        """``start`` through two experts to ``down``; the router's product is kept in float32."""
        shape, count = self.shape, self.shape.experts
        router = self.store(self.random.standard_normal((shape.hidden, count), np.float32))
        self.external("router", TensorProto.FLOAT, [shape.hidden, count], router)
        self.constants.append(helper.make_tensor("rows", TensorProto.INT64, [2], [-1, count]))
        ins: dict[str, str] = {}
        for name, rows, columns in (("fc1", 2 * shape.width, shape.hidden), ("fc2", shape.hidden, shape.width)):
            blocks = columns // shape.block
            sizes = {"values": columns * shape.bits // 8, "scales": blocks, "zeros": -(-blocks * shape.bits // 8)}
            for part, place in self.matrix(count * rows, columns).items():
                store = self.scales if part == "scales" else partial(self.external, kind=TensorProto.UINT8)
                ins[f"{name}.{part}"] = store(f"{name}.{part}", sizes=[count, rows, sizes[part]], place=place)
            if shape.bias:
                bias = self.store(self.random.standard_normal((count, rows), np.float32))
                ins[f"{name}.bias"] = self.external(f"{name}.bias", TensorProto.FLOAT, [count, rows], bias)
        order = [f"{name}.{part}" for name in ("fc1", "fc2", "fc3") for part in ("values", "scales", "bias")]
        inputs = ["start", "probs", *(ins.get(name, "") for name in (*order, "fc1.zeros", "fc2.zeros"))]
        self.nodes += [
            helper.make_node("MatMul", ["start", "router"], ["logits_of_experts"]),
            helper.make_node("Reshape", ["logits_of_experts", "rows"], ["probs"]),
            helper.make_node(
                "QMoE", inputs, ["down"], "experts", domain="com.microsoft", k=2,
                activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1, block_size=shape.block,
                expert_weight_bits=shape.bits, accuracy_level=shape.accuracy_level,
            ),
        ]  # fmt: skip

    def embed(self, table: dict[str, tuple[int, int]], output: str) -> None:
        shape, blocks = self.shape, -(-self.shape.hidden // self.shape.block)
        row = blocks * shape.block * shape.bits // 8
        values = self.external("table.values", TensorProto.UINT8, [VOCABULARY, row], table["values"])
        scales = self.scales("table.scales", [VOCABULARY, blocks], table["scales"])
        node = helper.make_node(
            "GatherBlockQuantized", [values, "ids", scales], [output], "embed", domain="com.microsoft", gather_axis=0,
            quantize_axis=1, block_size=shape.block, bits=shape.bits,
        )  # fmt: skip
        self.nodes.insert(0, node)

    def kept(self) -> None:
        hidden = self.shape.hidden
        table = self.store(self.random.standard_normal((VOCABULARY, hidden), np.float32))
        self.external("table", TensorProto.FLOAT, [VOCABULARY, hidden], table)
        square = self.store(self.random.standard_normal((hidden, hidden), np.float32))
        self.external("square", TensorProto.FLOAT, [hidden, hidden], square)
        self.nodes += [
            helper.make_node("Gather", ["table", "ids"], ["start"]),
            helper.make_node("MatMul", ["start", "square"], ["end"], "middle"),
            helper.make_node("FusedMatMul", ["end", "table"], ["head"], "head", domain="com.microsoft", transB=1),
        ]
        if not self.shape.branch:
            self.nodes[-1].output[0] = "logits"
            return
        answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, None)
        branches = [
            helper.make_graph([helper.make_node(op, ["head", "offset"], ["answer"])], op, [], [answer])
            for op in ("Add", "Sub")
        ]
        self.external("offset", TensorProto.FLOAT, [VOCABULARY], self.store(np.ones(VOCABULARY, np.float32)))
        self.constants += [
            helper.make_tensor("axes", TensorProto.INT64, [2], [0, 1]),
            helper.make_tensor("three", TensorProto.INT64, [1], [3]),
            helper.make_tensor("nothing", TensorProto.INT64, [0], []),
        ]
        self.nodes += [
            helper.make_node("ReduceMax", ["ids", "axes"], ["largest"], keepdims=0),
            helper.make_node("Reshape", ["three", "nothing"], ["scalar"]),
            helper.make_node("Greater", ["largest", "scalar"], ["chosen"]),
            helper.make_node("If", ["chosen"], ["logits"], then_branch=branches[0], else_branch=branches[1]),
        ]


def make_bundle(folder: Path, shape: Shape | None = None, *, seed: int = 0) -> Path:
    """Write a bundle whose logits depend on every byte of it."""
    shape = shape or Shape()
    folder.mkdir(parents=True)
    builder = _Builder(folder, shape, seed)
    (builder.kept if shape.kept else builder.quantized)()
    builder.data.close()
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY])]
    graph = helper.make_graph(builder.casts + builder.nodes, "decoder", inputs, outputs, builder.constants)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), folder / "model.onnx")
    write_manifest(folder)
    return folder


def write_manifest(folder: Path) -> None:
    """Describe the folder's files as they are now."""
    (folder / "manifest.json").unlink(missing_ok=True)
    manifest = Manifest("llama", {"arm64-cpu": {}}, {}, {}, {}, (), {}, files=describe_files(folder))
    (folder / "manifest.json").write_text(manifest.serialize())


def options() -> onnxruntime.SessionOptions:
    """One thread, errors only."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = 1
    made.log_severity_level = 3
    return made


def logits(session: onnxruntime.InferenceSession) -> NDArray[np.float32]:
    """What the bundle computes for IDS."""
    (found,) = session.run(["logits"], {"ids": IDS})
    return np.asarray(found)


def run(bundle: Path, cache: Path, *, prepared: bool = True, limit: int | None = None) -> tuple[bytes, Prepared]:
    """Open a bundle, compute, and let go of it."""
    session, state = open_session(
        bundle, bundle / "model.onnx", options(), prepared=prepared, cache=cache, limit=limit
    )  # fmt: skip
    result = logits(session)
    assert np.isfinite(result).all()
    state.trim()
    assert logits(session).tobytes() == result.tobytes()
    return result.tobytes(), state


def forms(directory: Path) -> dict[str, int]:
    """How many weights were written in which form."""
    found: dict[str, int] = json.loads((directory / "prepared.json").read_text())["forms"]
    return found
