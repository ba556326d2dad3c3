"""Which operators compute an encoder's attention, its products, and an LSTM, in the fewest instructions on ARM?

Each way is counted on an emulated processor (``edgepress emulator setup --system`` first) as nodes alone, one layer's
of them, queries, keys and values as products give them: the difference of a graph with three and one with one, halved.

    python benchmarks/arm_encoders.py [--cpus cortex-a76] [--parts "LSTM, 128 wide"]

What is counted anew replaces the same samples of before; all others stay.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from arm_ideas import FEW, FLOAT, FLOAT16, IN_MACHINE, MANY, Graph, count_bound
from common import RESULTS, group, save, table

from edgepress.targets.emulator import Call, find_system, setup
from edgepress.targets.emulator.system import boot

NAME = "arm_encoders"
CPUS = ("cortex-a53", "cortex-a76", "neoverse-n2")
_HALF = ("cortex-a76", "neoverse-n2")  # processors that compute in float16
_SCALES = {"values": 0.02, "scores": 0.05, "shares": 1 / 255}  # of 8-bit integers: kernels take as long for any


@dataclass(frozen=True)
class Attention:
    """A layer's attention: ``tokens`` to all ``tokens``; with ``mask`` some of them are padding."""

    heads: int
    width: int
    tokens: int
    mask: bool = False

    @property
    def hidden(self) -> int:
        """Numbers of a token."""
        return self.heads * self.width

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return float(self.width**-0.5)


@dataclass(frozen=True)
class Recurrent:
    """An LSTM of one direction over ``steps`` steps, one sequence at a time, as wide as what it reads."""

    width: int
    steps: int


@dataclass(frozen=True)
class Product:
    """``tokens`` rows times a weight (columns, rows), and a bias."""

    columns: int
    rows: int
    tokens: int


Part = Attention | Recurrent | Product

PARTS: Mapping[str, Part] = {
    "MiniLM, 128 tokens": Attention(12, 32, 128),
    "MiniLM, 128 tokens, mask": Attention(12, 32, 128, mask=True),
    "ViT-tiny, 197 patches": Attention(3, 64, 197),
    "product, 384 → 1,536, 32 tokens": Product(384, 1536, 32),
    "product, 384 → 1,536, a token": Product(384, 1536, 1),
    "LSTM, 128 wide, a step": Recurrent(128, 1),
    "LSTM, 128 wide, 16 steps": Recurrent(128, 16),
    "LSTM, 256 wide, a step": Recurrent(256, 1),
    "LSTM, 256 wide, 16 steps": Recurrent(256, 16),
    "LSTM, 512 wide, a step": Recurrent(512, 1),
    "LSTM, 512 wide, 16 steps": Recurrent(512, 16),
}


def _projected(g: Graph, part: Attention, at: str, kind: type = np.float32) -> list[str]:
    """Queries, keys and values: (1, tokens, hidden)."""
    draw, shape = np.random.default_rng(0), (1, part.tokens, part.hidden)
    whole = np.issubdtype(kind, np.integer)
    values = [draw.integers(0, 256, shape) if whole else draw.standard_normal(shape) for _ in "qkv"]
    return [g.input(f"{at}{name}", value.astype(kind)) for name, value in zip("qkv", values, strict=True)]


def _apart(g: Graph, part: Attention, x: str, order: Sequence[int] = (0, 2, 1, 3)) -> str:
    """(1, tokens, hidden) → (1, heads, tokens, width), or in another order."""
    shape = g.constant("by_head", np.array([0, 0, part.heads, part.width]))
    return g.node("Transpose", [g.node("Reshape", [x, shape], [f"{x}.by_head"])], [f"{x}.apart"], perm=list(order))


def _together(g: Graph, x: str, y: str) -> str:
    flat = g.constant("flat", np.array([0, 0, -1]))
    return g.node("Reshape", [g.node("Transpose", [x], [f"{x}.turned"], perm=[0, 2, 1, 3]), flat], [y])


def _bias(g: Graph, part: Attention) -> str:
    """What is added to scores (1, 1, tokens, tokens); none without a mask."""
    if not part.mask:
        return ""
    return g.input(
        "bias",
        np.where(np.arange(part.tokens) < part.tokens - 4, 0, -1e4)
        .astype(np.float32)[None, None, None]
        .repeat(part.tokens, 2),
    )


def plain(g: Graph, part: Attention, at: str) -> str:
    """MatMul, Mul, Softmax, MatMul."""
    q, k, v = _projected(g, part, at)
    scale = g.constant("scale", np.array(part.scale, np.float32))
    q = g.node("Mul", [_apart(g, part, q), scale], [f"{at}scaled"])
    scores = g.node("MatMul", [q, _apart(g, part, k, (0, 2, 3, 1))], [f"{at}scores"])
    if bias := _bias(g, part):
        scores = g.node("Add", [scores, bias], [f"{at}masked"])
    shares = g.node("Softmax", [scores], [f"{at}shares"], axis=-1)
    return _together(g, g.node("MatMul", [shares, _apart(g, part, v)], [f"{at}mixed"]), f"{at}y")


def onnx_heads(g: Graph, part: Attention, at: str) -> str:
    """ai.onnx Attention of heads that are apart, as torch's exporter writes it."""
    q, k, v = (_apart(g, part, x) for x in _projected(g, part, at))
    inputs = [name for name in (q, k, v, _bias(g, part)) if name]
    return _together(g, g.node("Attention", inputs, [f"{at}mixed"], scale=part.scale), f"{at}y")


def onnx_flat(g: Graph, part: Attention, at: str) -> str:
    """ai.onnx Attention that takes heads apart itself."""
    inputs = [name for name in (*_projected(g, part, at), _bias(g, part)) if name]
    heads = {"q_num_heads": part.heads, "kv_num_heads": part.heads}
    return g.node("Attention", inputs, [f"{at}y"], scale=part.scale, **heads)


def multi_head(g: Graph, part: Attention, at: str) -> str:
    """MultiHeadAttention."""
    inputs = [*_projected(g, part, at), *(["", "", bias] if (bias := _bias(g, part)) else [])]
    return g.node("MultiHeadAttention", inputs, [f"{at}y"], num_heads=part.heads, scale=part.scale)


def grouped(g: Graph, part: Attention, at: str) -> str:
    """GroupQueryAttention, each token to all; what it keeps for later tokens is written, too."""
    return _grouped(g, part, at, _projected(g, part, at))


def grouped_half(g: Graph, part: Attention, at: str) -> str:
    """The same in float16 between Casts."""
    halves = [g.node("Cast", [x], [f"{x}.half"], to=FLOAT16) for x in _projected(g, part, at)]
    return g.node("Cast", [_grouped(g, part, at, halves)], [f"{at}single"], to=FLOAT)


def _grouped(g: Graph, part: Attention, at: str, projected: Sequence[str]) -> str:
    lengths = [
        g.input("seqlens", np.array([part.tokens - 1], np.int32)),
        g.input("total", np.array(part.tokens, np.int32)),
    ]
    heads = {"num_heads": part.heads, "kv_num_heads": part.heads, "causal": 0}
    outputs = [f"{at}y", f"{at}keys", f"{at}values"]
    return g.node("GroupQueryAttention", [*projected, "", "", *lengths], outputs, scale=part.scale, **heads)


def onnx_half(g: Graph, part: Attention, at: str) -> str:
    """ai.onnx Attention in float16 between Casts."""
    halves = [g.node("Cast", [x], [f"{x}.half"], to=FLOAT16) for x in _projected(g, part, at)]
    heads = {"q_num_heads": part.heads, "kv_num_heads": part.heads}
    mixed = g.node("Attention", halves, [f"{at}mixed"], scale=part.scale, **heads)
    return g.node("Cast", [mixed], [f"{at}y"], to=FLOAT)


def integers(g: Graph, part: Attention, at: str) -> str:
    """QLinearMatMul, QLinearSoftmax, QLinearMatMul: as int8-static computes it; the scale is that of the codes."""
    q, k, v = _projected(g, part, at, np.uint8)
    values, scores, shares = ([g.constant(name, np.array(scale, np.float32))] for name, scale in _SCALES.items())
    for one, zero in ((values, 128), (scores, 128), (shares, 0)):
        one.append(g.constant(f"{one[0]}.zero", np.array(zero, np.uint8)))
    q, k = _apart(g, part, q), _apart(g, part, k, (0, 2, 3, 1))
    found = g.node("QLinearMatMul", [q, *values, k, *values, *scores], [f"{at}scores.codes"])
    found = g.node("QLinearSoftmax", [found, *scores, *shares], [f"{at}shares.codes"], axis=-1, opset=21)
    found = g.node("QLinearMatMul", [found, *shares, _apart(g, part, v), *values, *values], [f"{at}mixed"])
    return _together(g, found, f"{at}y")


def between_integers(g: Graph, part: Attention, at: str) -> str:
    """MultiHeadAttention in float32 between DequantizeLinear and QuantizeLinear."""
    values = [
        g.constant("values", np.array(_SCALES["values"], np.float32)),
        g.constant("zero", np.array(128, np.uint8)),
    ]
    floats = [g.node("DequantizeLinear", [x, *values], [f"{x}.float"]) for x in _projected(g, part, at, np.uint8)]
    mixed = g.node("MultiHeadAttention", floats, [f"{at}mixed"], num_heads=part.heads, scale=part.scale)
    return g.node("QuantizeLinear", [mixed, *values], [f"{at}y"])


def _matrix(g: Graph, part: Product, at: str) -> tuple[str, np.ndarray, str]:
    """What is multiplied, its weight (columns, rows), and a bias."""
    draw = np.random.default_rng(0)
    x = g.input(f"{at}x", draw.standard_normal((1, part.tokens, part.columns)).astype(np.float32))
    weight = draw.standard_normal((part.columns, part.rows)).astype(np.float32)
    return x, weight, g.constant("bias", np.ones(part.rows, np.float32))


def product(g: Graph, part: Product, at: str) -> str:
    """MatMul and Add."""
    x, weight, bias = _matrix(g, part, at)
    return g.node("Add", [g.node("MatMul", [x, g.constant("W", weight)], [f"{at}product"]), bias], [f"{at}y"])


def product_integers(kind: type) -> "Write":
    """DynamicQuantizeMatMul: weights of this type with a scale a row, uint8 activations ranged at each call."""

    def written(g: Graph, part: Product, at: str) -> str:
        x, weight, bias = _matrix(g, part, at)
        scale = np.abs(weight).max(0) / 127
        stored = [*_codes(g, "W", weight / scale, kind), g.constant("W.scale", scale.astype(np.float32))]
        zeros = "" if kind is np.int8 else g.constant("W.zero", np.full(part.rows, 128, np.uint8))
        return g.node("DynamicQuantizeMatMul", [x, *stored, zeros, bias], [f"{at}y"])

    return written


def _codes(g: Graph, name: str, steps: np.ndarray, kind: type) -> list[str]:
    return [g.constant(f"{name}.codes", (np.rint(steps) + (0 if kind is np.int8 else 128)).astype(kind))]


def _cells(g: Graph, part: Recurrent, at: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """What an LSTM reads and carries, and its weights: (1, 4 · width, width)."""
    draw, width = np.random.default_rng(0), part.width
    x = g.input(f"{at}x", draw.standard_normal((part.steps, 1, width)).astype(np.float32))
    states = [g.input(f"{at}{name}", np.zeros((1, 1, width), np.float32)) for name in ("h", "c")]
    matrices = {n: draw.standard_normal((1, 4 * width, width)).astype(np.float32) / np.sqrt(width) for n in "WR"}
    return [x, *states], {name: value.astype(np.float32) for name, value in matrices.items()}


def recurrent(g: Graph, part: Recurrent, at: str) -> str:
    """LSTM."""
    (x, *states), matrices = _cells(g, part, at)
    weights = [g.constant(name, value) for name, value in matrices.items()]
    bias = g.constant("B", np.zeros((1, 8 * part.width), np.float32))
    return g.node("LSTM", [x, *weights, bias, "", *states], [f"{at}y", f"{at}hn", f"{at}cn"], hidden_size=part.width)


def recurrent_integers(kind: type, *, by_row: bool) -> "Write":
    """DynamicQuantizeLSTM: weights with a scale a row or one for all, uint8 activations ranged at each step."""

    def written(g: Graph, part: Recurrent, at: str) -> str:
        (x, *states), matrices = _cells(g, part, at)
        codes, scales = [], []
        for name, value in matrices.items():
            turned = value.transpose(0, 2, 1)  # (1, width, 4 · width)
            scale = np.abs(turned).max(1 if by_row else (0, 1, 2), keepdims=True) / 127
            codes += _codes(g, name, turned / scale, kind)
            flat = scale.reshape((1, -1) if by_row else (1,)).astype(np.float32)
            zeros = np.full(flat.shape, 0 if kind is np.int8 else 128, kind)
            scales += [g.constant(f"{name}.scale", flat), g.constant(f"{name}.zero", zeros)]
        bias = g.constant("B", np.zeros((1, 8 * part.width), np.float32))
        inputs = [x, *codes, bias, "", *states, "", *scales]
        return g.node("DynamicQuantizeLSTM", inputs, [f"{at}y", f"{at}hn", f"{at}cn"], hidden_size=part.width)

    return written


Write = Callable[[Graph, Any, str], str]  # a part, whose names begin so; its output
WAYS: Mapping[type, Mapping[str, Write]] = {
    Attention: {
        "MatMul, Mul, Softmax, MatMul": plain,
        "Attention 23 of heads apart": onnx_heads,
        "Attention 23": onnx_flat,
        "MultiHeadAttention": multi_head,
        "GroupQueryAttention, causal = 0": grouped,
        "Attention 23 in float16, Casts": onnx_half,
        "GroupQueryAttention, causal = 0, in float16, Casts": grouped_half,
        "uint8: QLinearMatMul, QLinearSoftmax, QLinearMatMul": integers,
        "uint8: MultiHeadAttention in float32 between integers": between_integers,
    },
    Product: {
        "MatMul, Add": product,
        "DynamicQuantizeMatMul, uint8": product_integers(np.uint8),
        "DynamicQuantizeMatMul, int8": product_integers(np.int8),
    },
    Recurrent: {
        "LSTM": recurrent,
        "DynamicQuantizeLSTM, uint8, a scale a row": recurrent_integers(np.uint8, by_row=True),
        "DynamicQuantizeLSTM, uint8, one scale": recurrent_integers(np.uint8, by_row=False),
        "DynamicQuantizeLSTM, int8, a scale a row": recurrent_integers(np.int8, by_row=True),
    },
}
_WITHOUT_MASK = {grouped, grouped_half, onnx_half, integers, between_integers}
_IN_HALF = {grouped_half, onnx_half}


def ways(part: Part, cpu: str) -> Iterator[tuple[str, Write]]:
    """How a part is computed on a processor."""
    for way, write in WAYS[type(part)].items():
        if isinstance(part, Attention) and part.mask and write in _WITHOUT_MASK:
            continue
        if write not in _IN_HALF or cpu in _HALF:
            yield way, write


def graph_of(write: Write, part: Part, count: int) -> Graph:
    """A graph with a part so many times."""
    graph = Graph()
    for index in range(count):
        y = write(graph, part, f"{index}.")
        graph.outputs[y] = onnx.TensorProto.UINT8 if write in (integers, between_integers) else FLOAT
    return graph


def samples(cpu: str, folder: Path, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Count ``parts`` in one boot."""
    machine, cases, calls, files = (setup(), find_system()), [], [], {**IN_MACHINE}
    for name in parts:
        for way, write in ways(PARTS[name], cpu):
            for count in (FEW, MANY):
                graph, file = graph_of(write, PARTS[name], count), f"{len(calls)}.onnx"
                model = graph.model()
                model.opset_import[0].version = 23
                onnx.save(model, folder / file)
                files[f"model/{file}"] = folder / file
                asked = {"model": f"/model/{file}", "shared": {}, "entries": {}}
                calls.append(Call(count_bound(), asked, graph.feeds))
            cases.append({"cpu": cpu, "part": name, "way": way})
    told = [answer["instructions"] for answer in boot(*machine, cpu, calls, files)]
    for case, few, many in zip(cases, told[::2], told[1::2], strict=True):
        yield {**case, "few": few, "many": many}


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Thousands of instructions of a layer, and by those of the first way."""
    rows, columns = [], [cpu for (cpu,) in group(found, "cpu")]
    each = {(one["part"], one["way"], one["cpu"]): (one["many"] - one["few"]) / (MANY - FEW) for one in found}
    for part, way in group(found, "part", "way"):
        first = next(iter(WAYS[type(PARTS[part])]))
        cells = []
        for cpu in columns:
            count = each.get((part, way, cpu))
            cells.append("–" if count is None else f"{count / 1e3:,.0f} ({count / each[part, first, cpu]:.2f})")
        rows.append([part, way, *cells])
    return table(["part", "computed by", *(f"{cpu}: thousands" for cpu in columns)], rows)


def counted() -> list[dict[str, Any]]:
    """The samples there are."""
    path = RESULTS / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def main() -> None:
    """Count, keep the raw counts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", nargs="*", default=CPUS)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        for cpu in arguments.cpus:
            found = list(samples(cpu, Path(folder), arguments.parts))
            again = {(cpu, part) for part in arguments.parts}
            kept = [one for one in counted() if (one["cpu"], one["part"]) not in again] + found
            save(NAME, sorted(kept, key=lambda one: (CPUS.index(one["cpu"]), list(PARTS).index(one["part"]))))
    print(report(counted()))


if __name__ == "__main__":
    main()
