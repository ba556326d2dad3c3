"""Small models, one for each thing that passes change; with the inputs that go in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.graph.passes import PassOrder, find_pass

CONTRIB = "com.microsoft"
ALL_PASSES = PassOrder(
    (
        *("drop-rounding", "plain-matmul", "decompose-attention", "decompose-skip-norm", "plain-norm", "plain-rotary"),
        *("plain-activations", "float32", "bind-shapes", "fold-constants", "flatten-norm", "merge-moves", "swap-last"),
        *("plain-gather-nd", "heads-together", "float-masks", "plain-attention", "plain-gelu", "plain-erf"),
        *(
            "decompose-layer-norm",
            "plain-reduce-l2",
            "sums-by-means",
            "plain-sum",
            "plain-flatten",
            "plain-pad",
            "plain-expand",
        ),
        *("plain-logic", "plain-gather", "flat-products", "fold-constants"),
    )
)
Arrays = dict[str, np.ndarray]


@dataclass
class Case:
    """A model, what it is fed, and dimensions to bind; ``tolerance`` of outputs, relative to the largest."""

    model: onnx.ModelProto
    feeds: Arrays
    shapes: dict[str, int] = field(default_factory=dict)
    tolerance: float = 2e-6


def order(*names: str) -> PassOrder:
    """These passes over a model for which everything holds that they require."""
    return PassOrder(names, frozenset(fact for name in names for fact in find_pass(name).requires))


def info(name: str, array: np.ndarray, dims: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, list(array.shape if dims is None else dims))


def model(
    nodes: Sequence[onnx.NodeProto],
    feeds: Arrays,
    outputs: Sequence[str],
    constants: Arrays | None = None,
    *,
    opset: int = 21,
    dims: dict[str, Sequence[int | str]] | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of ``nodes``; inputs have the shapes of their feeds unless ``dims`` says, outputs symbols."""
    graph = helper.make_graph(
        nodes,
        "case",
        [info(name, array, (dims or {}).get(name)) for name, array in feeds.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=11 if opset > 22 else 10)
    for value, array in zip(made.graph.output, run(made, feeds), strict=True):  # the checker wants a rank
        value.CopyFrom(info(value.name, array, [f"{value.name}_{axis}" for axis in range(array.ndim)]))
    return made


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=outputs[0], **attributes)


def contrib(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return node(op, inputs, outputs, domain=CONTRIB, **attributes)


def run(proto: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    """Outputs by onnxruntime's CPU provider, as the graph is written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    named = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value for name, value in feeds.items() if name in named})


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def group_query(
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    sequence: int = 5,
    past: int = 3,
    batch: int = 1,
    packed: bool = True,
    rotary: int = 0,
    rotary_interleaved: int = 0,
    positions: bool = False,
    bias: bool = False,
    dynamic: bool = True,
    seed: int = 0,
    **attributes: object,
) -> Case:
    """GroupQueryAttention on equally long rows; ``rotary`` counts the pairs that are rotated."""
    total = past + sequence
    feeds: Arrays = {}
    if packed:
        feeds["q"] = normal(seed, batch, sequence, (heads + 2 * kv_heads) * head_dim)
    else:
        feeds |= {"q": normal(seed, batch, sequence, heads * head_dim)}
        feeds |= {name: normal(seed + n, batch, sequence, kv_heads * head_dim) for n, name in enumerate("kv", 1)}
    feeds |= {name: normal(seed + 9, batch, kv_heads, past, head_dim) for name in ("past_k", "past_v")}
    feeds["seqlens_k"] = np.full(batch, total - 1, np.int32)
    feeds["total"] = np.array(total, np.int32)
    inputs = ["q", *(["", ""] if packed else ["k", "v"]), "past_k", "past_v", "seqlens_k", "total", "", ""]
    constants: Arrays = {}
    if rotary:
        angles = np.outer(np.arange(40), 0.7 ** np.arange(rotary)).astype(np.float32)
        constants = {"cos": np.cos(angles), "sin": np.sin(angles)}
        inputs[-2:] = ["cos", "sin"]
        attributes |= {"do_rotary": 1, "rotary_interleaved": rotary_interleaved}
    inputs += ["", ""]
    if positions:
        feeds["positions"] = np.tile(np.arange(past, total), (batch, 1))
        inputs[-2] = "positions"
    if bias:
        feeds["bias"] = normal(seed + 20, 1, heads, sequence, total)
        inputs[-1] = "bias"
    while not inputs[-1]:
        inputs.pop()
    made = contrib(
        "GroupQueryAttention",
        inputs,
        ["y", "present_k", "present_v"],
        num_heads=heads,
        kv_num_heads=kv_heads,
        **attributes,
    )
    dims: dict[str, Sequence[int | str]] = {}
    shapes: dict[str, int] = {}
    if dynamic:
        dims = {"q": ["b", "s", feeds["q"].shape[2]]}
        dims |= {name: ["b", "s", kv_heads * head_dim] for name in "kv" if name in feeds}
        dims |= {name: ["b", kv_heads, "p", head_dim] for name in ("past_k", "past_v")}
        shapes = {"b": batch, "s": sequence, "p": past}
    return Case(model([made], feeds, ["y", "present_k", "present_v"], constants, dims=dims), feeds, shapes, 1e-5)


def matmul_nbits(
    *, rows: int = 12, columns: int = 70, bits: int = 4, block: int = 16, zero_points: str = "", bias: bool = False
) -> Case:
    """MatMulNBits with random codes; ``zero_points`` is "", "packed" or "float"."""
    generator, blocks = np.random.default_rng(bits), -(-columns // block)
    codes = generator.integers(0, 256, (rows, blocks, block * bits // 8), np.uint8)
    constants: Arrays = {"codes": codes, "scales": normal(1, rows, blocks) / 8}
    inputs = ["x", "codes", "scales"]
    if zero_points == "packed":
        constants["zp"] = generator.integers(0, 256, (rows, -(-blocks * bits // 8)), np.uint8)
    elif zero_points:
        constants["zp"] = generator.uniform(0, 1 << bits, (rows, blocks)).astype(np.float32)
    if zero_points or bias:
        inputs.append("zp" if zero_points else "")
    if bias:
        constants["bias"] = normal(3, rows)
        inputs += ["", "bias"]
    feeds = {"x": normal(2, 2, 3, columns)}
    made = contrib("MatMulNBits", inputs, ["y"], N=rows, K=columns, bits=bits, block_size=block, accuracy_level=1)
    return Case(model([made], feeds, ["y"], constants), feeds, tolerance=1e-5)


def gather_block_quantized(*, bits: int = 4, block: int = 16, zero_points: bool = False, columns: int = 48) -> Case:
    generator, rows, blocks = np.random.default_rng(bits), 9, -(-columns // block)
    constants: Arrays = {
        "table": generator.integers(0, 256, (rows, columns * bits // 8), np.uint8),
        "scales": normal(1, rows, blocks),
    }
    if zero_points:
        constants["zp"] = generator.integers(0, 256, (rows, -(-blocks * bits // 8)), np.uint8)
    feeds = {"ids": np.array([[3, 8, 0, 3]])}
    names = ["table", "ids", "scales", *(["zp"] if zero_points else [])]
    attributes = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    return Case(model([contrib("GatherBlockQuantized", names, ["y"], **attributes)], feeds, ["y"], constants), feeds)


def rotary_embedding(*, flat: bool, interleaved: int, rotated: int = 16, offset: bool = False) -> Case:
    heads, head_dim, length = 3, 16, 4
    partial = rotated < head_dim
    feeds: Arrays = {"x": normal(1, 2, length, heads * head_dim) if flat else normal(1, 2, heads, length, head_dim)}
    feeds["positions"] = np.array([5]) if offset else np.array([[0, 1, 2, 3], [7, 6, 2, 9]])
    angles = np.outer(np.arange(12), 0.5 ** np.arange(rotated // 2)).astype(np.float32)
    attributes = {"interleaved": interleaved}
    if partial:
        attributes |= {"num_heads": heads, "rotary_embedding_dim": rotated}
    made = contrib("RotaryEmbedding", ["x", "positions", "cos", "sin"], ["y"], **attributes)
    return Case(model([made], feeds, ["y"], {"cos": np.cos(angles), "sin": np.sin(angles)}), feeds)


def norm(op: str, *, bias: bool = False, residual: bool = False) -> Case:
    """A norm with x (2, 3, 32); Skip… adds ``skip`` (and a bias), and gives the sum when ``residual``."""
    constants: Arrays = {"gain": normal(1, 32) + 1}
    feeds: Arrays = {"x": normal(2, 2, 3, 32)}
    inputs = ["x", "gain"]
    outputs = ["y"]
    if op.startswith("Skip"):
        feeds["skip"] = normal(3, 2, 3, 32)
        inputs = ["x", "skip", "gain"]
        outputs += ["", "", "sum"] if residual else []
    if "Simplified" not in op and op != "RMSNormalization":
        constants["beta"] = normal(4, 32)
        inputs.append("beta")
    if bias:
        constants["bias"] = normal(5, 32)
        inputs.append("bias")
    domain = CONTRIB if op.startswith("Skip") else ""
    attributes: dict[str, object] = {"epsilon": 1e-3} | ({} if domain else {"axis": -1})
    named = [name for name in outputs if name]
    opset = 23 if op == "RMSNormalization" else 21
    made = node(op, inputs, outputs, domain=domain, **attributes)
    return Case(model([made], feeds, named, constants, opset=opset), feeds)


def activation(op: str, *, bias: bool = False, **attributes: object) -> Case:
    feeds = {"x": 3 * normal(1, 2, 3, 8)}
    made = contrib(op, ["x", *(["bias"] if bias else [])], ["y"], **attributes)
    return Case(model([made], feeds, ["y"], {"bias": normal(2, 8)} if bias else {}), feeds)


def fused_matmul(*, trans_a: int = 0, trans_b: int = 0, alpha: float = 1.0, constant: bool = True) -> Case:
    a = normal(1, 2, 6, 5) if trans_a else normal(1, 2, 5, 6)
    b = normal(2, 7, 6) if trans_b else normal(2, 6, 7)
    feeds = {"a": a} if constant else {"a": a, "b": b}
    made = contrib("FusedMatMul", ["a", "b"], ["y"], transA=trans_a, transB=trans_b, alpha=alpha)
    return Case(model([made], feeds, ["y"], {"b": b} if constant else {}), feeds)


def multi_head(*, bias: bool = False, padding: bool = False, past: bool = False, added: bool = False) -> Case:
    heads, head_dim, length = 3, 8, 4
    hidden, total = heads * head_dim, length + (2 if past else 0)
    feeds: Arrays = {name: normal(n, 2, length, hidden) for n, name in enumerate("qkv")}
    inputs, outputs = ["q", "k", "v", "", "", "", "", ""], ["y"]
    if bias:
        feeds["bias"] = normal(5, 3 * hidden)
        inputs[3] = "bias"
    if padding:
        feeds["padding"] = np.array([[1] * total, [1] * (total - 2) + [0] * 2], np.int32)
        inputs[4] = "padding"
    if added:
        feeds["added"] = normal(6, 1, heads, length, total)
        inputs[5] = "added"
    if past:
        feeds |= {name: normal(7, 2, heads, 2, head_dim) for name in ("past_k", "past_v")}
        inputs[6:] = ["past_k", "past_v"]
        outputs += ["present_k", "present_v"]
    while not inputs[-1]:
        inputs.pop()
    made = contrib("MultiHeadAttention", inputs, outputs, num_heads=heads)
    return Case(model([made], feeds, outputs), feeds, tolerance=1e-5)


def dynamic_quantize_matmul(*, bias: bool) -> Case:
    """Rounds activations to 8 bits, so that the same product in float differs by about 1 %."""
    constants: Arrays = {
        "w": np.random.default_rng(1).integers(0, 256, (16, 6), np.uint8),
        "scale": np.abs(normal(2, 6)) / 64,
        "zp": np.full(6, 128, np.uint8),
    }
    names = ["x", "w", "scale", "zp", *(["bias"] if bias else [])]
    if bias:
        constants["bias"] = normal(3, 6)
    feeds = {"x": normal(4, 2, 3, 16)}
    return Case(model([contrib("DynamicQuantizeMatMul", names, ["y"])], feeds, ["y"], constants), feeds, tolerance=0.02)


def matmul_integer() -> Case:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["codes", "size", "zero"]),
        node("MatMulInteger", ["codes", "w", "zero", "zp"], ["sums"]),
        node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
        node("Mul", ["size", "scale"], ["sizes"]),
        node("Mul", ["real", "sizes"], ["y"]),
    ]
    constants: Arrays = {
        "w": np.random.default_rng(1).integers(0, 256, (16, 6), np.uint8),
        "scale": np.array(0.02, np.float32),
        "zp": np.array(120, np.uint8),
    }
    feeds = {"x": normal(4, 3, 16)}
    return Case(model(nodes, feeds, ["y"], constants), feeds, tolerance=0.02)


def quantized_convolution() -> Case:
    """A CNN's layer in QDQ: 8-bit weights with a scale for each output channel, 8-bit activations."""
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0),
        node("Conv", ["xd", "wd", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["y"]),
    ]
    constants: Arrays = {
        "sx": np.array(0.03, np.float32),
        "zx": np.array(128, np.uint8),
        "w": np.random.default_rng(1).integers(-127, 128, (4, 3, 3, 3), np.int8),
        "sw": np.abs(normal(2, 4)) / 64 + np.float32(0.01),
        "zw": np.zeros(4, np.int8),
        "b": normal(3, 4),
    }
    feeds = {"x": normal(4, 1, 3, 6, 5)}
    return Case(model(nodes, feeds, ["y"], constants, dims={"x": ["n", 3, "h", 5]}), feeds, {"n": 1, "h": 6}, 0.03)


def shape_arithmetic() -> Case:
    """A Reshape to what Shape, Gather and Concat say, an idle Cast, a Dropout, a branch in a subgraph."""
    branch = [
        helper.make_graph(
            [node("Mul", ["r", "two"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", 1, None)],
        )
        for name in ("yes", "no")
    ]
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "first"], ["n"]),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Cast", ["x"], ["same"], to=TensorProto.FLOAT),
        node("Dropout", ["same"], ["dropped"]),
        node("Reshape", ["dropped", "target"], ["r"]),
        node("If", ["flag"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    constants: Arrays = {"first": np.array([0]), "rest": np.array([-1]), "two": np.array(2, np.float32)}
    feeds: Arrays = {"x": normal(1, 2, 3, 4), "flag": np.array(True)}
    return Case(model(nodes, feeds, ["y"], constants, dims={"x": ["n", 3, 4]}), feeds, {"n": 2})


def norm_by_head(*, sequence: int | str = 5) -> Case:
    """A norm of every head, as queries have it."""
    constants: Arrays = {"gain": normal(1, 16) + 1, "by_head": np.array([0, 0, 4, 16]), "flat": np.array([0, 0, 64])}
    nodes = [
        node("Reshape", ["x", "by_head"], ["heads"]),
        node("SimplifiedLayerNormalization", ["heads", "gain"], ["normed"], axis=-1, epsilon=1e-5),
        node("Reshape", ["normed", "flat"], ["y"]),
    ]
    feeds = {"x": normal(2, 2, 5, 64)}
    dims = {"x": [2, sequence, 64]}
    return Case(model(nodes, feeds, ["y"], constants, dims=dims), feeds, {"s": 5})


def moves() -> Case:
    """A value that is moved and moved back, and one that is moved twice."""
    nodes = [
        node("Reshape", ["x", "six"], ["a"]),
        node("Reshape", ["a", "two"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("Transpose", ["c"], ["d"], perm=[1, 2, 0]),
        node("Transpose", ["d"], ["e"], perm=[1, 2, 0]),
        node("Transpose", ["e"], ["f"], perm=[1, 2, 0]),
        node("Add", ["f", "f"], ["y"]),
        node("Add", ["e", "e"], ["z"]),
    ]
    constants: Arrays = {"six": np.array([6, 4]), "two": np.array([2, 3, 4])}
    return Case(model(nodes, {"x": normal(1, 2, 3, 4)}, ["y", "z"], constants), {"x": normal(1, 2, 3, 4)})


def swapped() -> Case:
    """The last two axes swapped by way of three: of any batch by name, and where the sizes say something else."""
    nodes = [
        node("Reshape", ["x", "three"], ["a"]),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        node("Reshape", ["b", "four"], ["y"]),
        node("Reshape", ["b", "other"], ["z"]),
    ]
    constants: Arrays = {"three": np.array([-1, 4, 5]), "four": np.array([2, 3, 5, 4]), "other": np.array([3, 2, 5, 4])}
    return Case(model(nodes, {"x": normal(1, 2, 3, 4, 5)}, ["y", "z"], constants), {"x": normal(1, 2, 3, 4, 5)})


def half() -> Case:
    """A product in float16 between casts."""
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        contrib("FusedMatMul", ["h", "w"], ["p"], transB=1),
        node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
    ]
    feeds = {"x": normal(1, 2, 8)}
    return Case(model(nodes, feeds, ["y"], {"w": normal(2, 5, 8).astype(np.float16)}), feeds, tolerance=4e-3)


def masked_attention(*, heads: int = 2, length: int = 6, width: int = 8, opset: int = 23) -> Case:
    """ONNX's Attention with a mask of booleans, looked up by position as torch writes it: one text, its end padding."""
    random = np.random.default_rng(11)
    feeds = {name: random.standard_normal((1, heads, length, width)).astype(np.float32) for name in "qkv"}
    feeds["mask"] = np.array([[1] * (length - 2) + [0, 0]], np.int64)
    places = np.stack([np.zeros(length, np.int64), np.arange(length)], axis=-1).reshape(1, 1, 1, length, 2)
    nodes = [
        helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.BOOL),
        helper.make_node("GatherND", ["seen", "places"], ["looked_up"], batch_dims=0),
        helper.make_node("And", ["rows", "looked_up"], ["open"]),
        helper.make_node("Attention", ["q", "k", "v", "open"], ["y"], scale=0.4),
        helper.make_node("Attention", ["y", "k", "v", "open"], ["z"], scale=0.4),
    ]
    constants = {"places": places, "rows": np.ones((1, 1, length, 1), bool)}
    return Case(model(nodes, feeds, ["z"], constants, opset=opset), feeds)


def joined_attention(*, causal: int, kv_heads: int = 2) -> Case:
    """ONNX's Attention of heads that are joined in the last axis, fewer of keys and values than of queries."""
    random, feeds = np.random.default_rng(12), {}
    for name, heads in (("q", 4), ("k", kv_heads), ("v", kv_heads)):
        feeds[name] = random.standard_normal((2, 5, heads * 8)).astype(np.float32)
    made = node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=kv_heads, is_causal=causal)
    return Case(model([made], feeds, ["y"], opset=23), feeds, tolerance=1e-5)


def moved_attention(
    *,
    heads: int = 4,
    kv_heads: int = 4,
    size: int = 4,
    value_size: int = 4,
    lengths: tuple[int, int] = (5, 5),
    packed: bool = False,
    mask: np.ndarray | None = None,
    last: Sequence[int] = (),
    seed: int = 0,
    **attributes: object,
) -> Case:
    """ONNX's Attention of heads that Reshape and Transpose move apart, as torch writes it, of 2 texts.

    With ``packed`` queries, keys and values are of one value, as timm has them; ``last`` is the shape that
    results are brought to, unless they are (texts, tokens, ·).
    """
    feeds, dims, nodes, constants = dict[str, np.ndarray](), {}, [], dict[str, np.ndarray]()
    parts = {"q": (heads, size, lengths[0]), "k": (kv_heads, size, lengths[1]), "v": (kv_heads, value_size, lengths[1])}
    if packed:
        feeds["x"], dims["x"] = normal(seed, 2, lengths[0], 3 * heads * size), ["texts", "tokens", 3 * heads * size]
        constants |= {"parts": np.array([0, 0, 3, heads, size]), "first": np.array([0])}
        nodes += [node("Reshape", ["x", "parts"], ["view"])]
        nodes += [node("Transpose", ["view"], ["turned"], perm=[2, 0, 3, 1, 4])]
        for index, name in enumerate(parts):
            constants |= {f"{name}_from": np.array([index]), f"{name}_to": np.array([index + 1])}
            nodes += [node("Slice", ["turned", f"{name}_from", f"{name}_to", "first"], [f"{name}_cut"])]
            nodes += [node("Squeeze", [f"{name}_cut", "first"], [f"{name}_heads"])]
    else:
        for index, (name, (count, width, length)) in enumerate(parts.items()):
            feeds[name] = normal(seed + index, 2, length, count * width)
            dims[name] = ["texts", "tokens" if name == "q" or lengths[0] == lengths[1] else "others", count * width]
            constants[f"{name}_by_head"] = np.array([0, 0, count, width])
            nodes += [node("Reshape", [name, f"{name}_by_head"], [f"{name}_view"])]
            nodes += [node("Transpose", [f"{name}_view"], [f"{name}_heads"], perm=[0, 2, 1, 3])]
    inputs = [f"{name}_heads" for name in parts]
    if mask is not None:
        feeds["mask"], inputs = mask, [*inputs, "mask"]
    constants["last"] = np.array(last or (0, 0, heads * value_size))
    nodes += [
        node("Attention", inputs, ["attended"], **attributes),
        node("Transpose", ["attended"], ["by_token"], perm=[0, 2, 1, 3]),
        node("Reshape", ["by_token", "last"], ["flat"]),
        node("Neg", ["flat"], ["y"]),
    ]
    return Case(model(nodes, feeds, ["y"], constants, opset=23, dims=dims), feeds)


def plain(op: str, *, opset: int = 21, constants: Arrays | None = None, **attributes: object) -> Case:
    """One operator of ONNX's own, of x (2, 3, 4, 8) and constants."""
    feeds = {"x": normal(1, 2, 3, 4, 8)}
    made = node(op, ["x", *(constants or {})], ["y"], **attributes)
    return Case(model([made], feeds, ["y"], constants, opset=opset), feeds)


def sums() -> Case:
    feeds = {name: normal(at, 2, 3) for at, name in enumerate("abc")}
    return Case(model([node("Sum", ["a"], ["s"]), node("Sum", ["s", "b", "c"], ["y"])], feeds, ["y"]), feeds)


def embeddings() -> Case:
    """Rows of tables by numbers that are computed and by constants, and one row of what comes out."""
    constants: Arrays = {"table": normal(1, 9, 6), "places": normal(2, 7, 6), "order": np.array([[0, 1, 2, -1]])}
    nodes = [
        node("Gather", ["table", "ids"], ["rows"], axis=0),
        node("Gather", ["places", "order"], ["placed"], axis=0),
        node("Add", ["rows", "placed"], ["sum"]),
        node("Gather", ["sum", "last"], ["y"], axis=1),
    ]
    constants["last"] = np.array(-1)
    feeds = {"ids": np.array([[3, 8, 0, 3], [1, 1, 2, 4]])}
    return Case(model(nodes, feeds, ["y"], constants), feeds)


def flat_product() -> Case:
    """Two products of one value by matrices, one of them dequantized, and one by a batch of matrices."""
    constants: Arrays = {
        "w": normal(1, 8, 5),
        "codes": np.random.default_rng(2).integers(-127, 128, (8, 5), np.int8),
        "scale": np.abs(normal(3, 5)) / 64,
        "batch": normal(4, 2, 5, 3),
    }
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("DequantizeLinear", ["codes", "scale"], ["dequantized"], axis=1),
        node("MatMul", ["x", "dequantized"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("MatMul", ["c", "batch"], ["y"]),
    ]
    return Case(model(nodes, {"x": normal(5, 2, 4, 8)}, ["y"], constants), {"x": normal(5, 2, 4, 8)}, tolerance=1e-5)


CASES = {
    "attention, heads joined": joined_attention(causal=0),
    "attention, causal": joined_attention(causal=1, kv_heads=4),
    "onnx's gelu": plain("Gelu"),
    "onnx's gelu with tanh": plain("Gelu", approximate="tanh"),
    "error function": plain("Erf"),
    "norm of two axes": plain(
        "LayerNormalization", constants={"gain": normal(2, 4, 8), "bias": normal(3, 4, 8)}, axis=2
    ),
    "length": plain("ReduceL2", constants={"axes": np.array([-1])}, keepdims=1),
    "sum of two axes": plain("ReduceSum", constants={"axes": np.array([1, -1])}, keepdims=0),
    "sum of all": plain("ReduceSum"),
    "sums": sums(),
    "flatten": plain("Flatten", axis=2),
    "pad": plain("Pad", constants={"pads": np.array([0, 1, 0, 2, 0, 0, 0, 1]), "value": np.array(0.5, np.float32)}),
    "expand": plain("Expand", constants={"shape": np.array([5, 1, 3, 1, 8])}),
    "embeddings": embeddings(),
    "flat products": flat_product(),
    "attention with a mask of booleans": masked_attention(),
    "attention, heads moved": moved_attention(),
    "attention, heads of one product": moved_attention(packed=True, last=(-1, 16)),
    "group query": group_query(),
    "group query, apart": group_query(packed=False),
    "group query, first call": group_query(past=0, batch=2),
    "group query, one token": group_query(sequence=1, past=7, batch=2),
    "group query, one head for all": group_query(heads=3, kv_heads=1),
    "group query, no groups": group_query(heads=2, kv_heads=2),
    "group query, softcap, scale": group_query(softcap=2.0, scale=0.4),
    "group query, window": group_query(local_window_size=3),
    "group query, rotary": group_query(rotary=8),
    "group query, interleaved": group_query(rotary=8, rotary_interleaved=1),
    "group query, partial": group_query(rotary=8, head_dim=32),
    "group query, positions": group_query(rotary=8, positions=True, sequence=1),
    "group query, bias": group_query(bias=True),
    "group query, static": group_query(dynamic=False),
    "multi head": multi_head(),
    "multi head, bias": multi_head(bias=True),
    "multi head, padding": multi_head(padding=True),
    "multi head, past": multi_head(past=True, added=True),
    "blocks": matmul_nbits(),
    "blocks, 2 bits": matmul_nbits(bits=2, zero_points="packed"),
    "blocks, 8 bits": matmul_nbits(bits=8, zero_points="packed", bias=True),
    "blocks, float zero points": matmul_nbits(zero_points="float"),
    "table": gather_block_quantized(),
    "table, 8 bits": gather_block_quantized(bits=8, zero_points=True),
    "rotary, flat": rotary_embedding(flat=True, interleaved=0),
    "rotary, heads": rotary_embedding(flat=False, interleaved=1),
    "rotary, partial": rotary_embedding(flat=True, interleaved=0, rotated=8),
    "rotary, offset": rotary_embedding(flat=True, interleaved=0, offset=True),
    "rms norm": norm("SimplifiedLayerNormalization"),
    "onnx's rms norm": norm("RMSNormalization"),
    "skip rms norm": norm("SkipSimplifiedLayerNormalization", residual=True),
    "skip rms norm, bias": norm("SkipSimplifiedLayerNormalization", bias=True),
    "skip norm": norm("SkipLayerNormalization", bias=True, residual=True),
    "quick gelu": activation("QuickGelu", alpha=1.0),
    "quick gelu, 1.702": activation("QuickGelu"),
    "gelu": activation("Gelu"),
    "bias gelu": activation("BiasGelu", bias=True),
    "fast gelu": activation("FastGelu", bias=True),
    "product, transposed": fused_matmul(trans_a=1, trans_b=1, alpha=0.5),
    "product, no constant": fused_matmul(trans_b=1, constant=False),
    "dynamic": dynamic_quantize_matmul(bias=False),
    "dynamic, bias": dynamic_quantize_matmul(bias=True),
    "integers": matmul_integer(),
    "convolution": quantized_convolution(),
    "shapes": shape_arithmetic(),
    "half": half(),
    "norm by head": norm_by_head(),
    "norm by head, any length": norm_by_head(sequence="s"),
    "moves": moves(),
    "swapped": swapped(),
}
