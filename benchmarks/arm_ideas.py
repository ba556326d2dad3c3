"""Which other ways of computing a part of a layer take fewer instructions on ARM?

Each is counted on an emulated processor (``edgepress emulator setup --system`` first) as nodes alone, one layer's of
them: the difference of a graph with three of a part and one with one, halved. Inputs and outputs lie in memory of their
own, keys and values are written in place.

    python benchmarks/arm_ideas.py [--cpus cortex-a76] [--ideas SiLU]

What is counted anew replaces the same samples of before; all others stay.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from common import RESULTS, group, save, table
from onnx import TensorProto, helper, numpy_helper

from edgepress.targets.emulator import Call, find_system, setup
from edgepress.targets.emulator.system import boot

CONTRIB = "com.microsoft"
FLOAT, FLOAT16, INT32, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64
TYPES = {FLOAT: np.float32, FLOAT16: np.float16}
FEW, MANY = 1, 3  # of a part in a graph
TOKENS = {"decode": 1, "prefill": 32}
HIDDEN, MLP = 896, 4864  # Qwen2.5-0.5B's
HEADS, KV_HEADS, HEAD_DIM = 16, 8, 128  # Qwen3-0.6B's, whose queries and keys have norms
PAST, WINDOW = 1024, 256
ROWS, BLOCK = 1152, 128  # of Qwen2.5-0.5B's queries, keys and values together, in int4-128
NAME = "arm_ideas"
IN_MACHINE = {"import/ideas_in_machine.py": Path(__file__).with_name("ideas_in_machine.py")}


@dataclass
class Graph:
    """A graph that is being written: nodes, constants, inputs with their values, outputs."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    feeds: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)  # of onnxruntime's session configuration

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; its first output."""
        names = {"QuickGelu", "ScaledSiLU", "SkipSimplifiedLayerNormalization", "GroupQueryAttention", "MatMulNBits"}
        names |= {"RotaryEmbedding", "MultiHeadAttention", "QLinearSoftmax"}
        names |= {"DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}
        domain = CONTRIB if op in names else ""
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, value: Any) -> str:
        """Add a constant."""
        if name not in {tensor.name for tensor in self.constants}:
            self.constants.append(numpy_helper.from_array(value, name))
        return name

    def input(self, name: str, value: Any) -> str:
        """Add an input that has this value."""
        self.feeds[name] = value
        return name

    def model(self) -> onnx.ModelProto:
        """The model."""
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in self.feeds.items()
        ]
        outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in self.outputs.items()]
        graph = helper.make_graph(self.nodes, "ideas", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


Write = Callable[[Graph, int, int], None]  # a part, so many times, of so many tokens


def random(*shape: int, kind: int = FLOAT) -> Any:
    """Random numbers."""
    return np.random.default_rng(0).standard_normal(shape).astype(TYPES[kind])


def gated(write: Callable[[Graph, str, str, str], str]) -> Write:
    """``silu(gate) · up`` as ``write`` computes it, of its own result again and again."""

    def written(g: Graph, count: int, tokens: int) -> None:
        x, up = g.input("x", random(1, tokens, MLP)), g.input("up", random(1, tokens, MLP))
        for index in range(count):
            x = write(g, x, up, f"y{index}")
        g.outputs[x] = FLOAT

    return written


def quick_gelu(g: Graph, gate: str, up: str, y: str) -> str:
    """As our graphs have it: QuickGelu with alpha 1, and Mul."""
    return g.node("Mul", [g.node("QuickGelu", [gate], [f"{y}.act"], alpha=1.0), up], [y])


def scaled_silu(g: Graph, gate: str, up: str, y: str) -> str:
    """ScaledSiLU and Mul."""
    return g.node("Mul", [g.node("ScaledSiLU", [gate], [f"{y}.act"], alpha=1.0), up], [y])


def sigmoid(g: Graph, gate: str, up: str, y: str) -> str:
    """Sigmoid and two Mul; onnxruntime would fuse the first two, so that the other factor comes first."""
    opened = g.node("Mul", [g.node("Sigmoid", [gate], [f"{y}.open"]), up], [f"{y}.opened"])
    return g.node("Mul", [opened, gate], [y])


def skip_norm(kind: int) -> Write:
    """The norm of a sum, of float32 values: in float32, or in float16 between Casts."""

    def written(g: Graph, count: int, tokens: int) -> None:
        y, residual = g.input("y", random(1, tokens, HIDDEN)), g.input("residual", random(1, tokens, HIDDEN, kind=kind))
        weight = g.constant("weight", np.ones(HIDDEN, TYPES[kind]))
        for index in range(count):
            added = y if kind == FLOAT else g.node("Cast", [y], [f"{index}.half"], to=FLOAT16)
            normed, residual, before = f"{index}.normed", f"{index}.residual", residual
            g.node(
                "SkipSimplifiedLayerNormalization", [before, added, weight], [normed, "", "", residual], epsilon=1e-6
            )
            y = normed if kind == FLOAT else g.node("Cast", [normed], [f"{index}.single"], to=FLOAT)
        g.outputs |= {y: FLOAT, residual: kind}

    return written


def normed_attention(g: Graph, count: int, tokens: int) -> None:
    """Attention whose queries and keys are normed by head, in float32, by nodes before it."""
    widths = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM)
    weight = g.constant("weight", np.ones(HEAD_DIM, np.float32))
    for index in range(count):
        qkv, parts = g.input(f"{index}.qkv", random(1, tokens, sum(widths))), [f"{index}.{part}" for part in "qkv"]
        g.node("Split", [qkv, g.constant("widths", np.array(widths))], parts, axis=-1)
        for part, heads in zip(parts[:2], (HEADS, KV_HEADS), strict=True):
            by_head = g.constant(f"by_{heads}", np.array([0, 0, heads, HEAD_DIM]))
            apart = g.node("Reshape", [part, by_head], [f"{part}.apart"])
            normed = g.node("SimplifiedLayerNormalization", [apart, weight], [f"{part}.normed"], epsilon=1e-6)
            g.node("Reshape", [normed, g.constant("flat", np.array([0, 0, -1]))], [f"{part}.flat"])
        query = [f"{parts[0]}.flat", f"{parts[1]}.flat", parts[2]]
        query = [g.node("Cast", [part], [f"{part}.half"], to=FLOAT16) for part in query]
        attend(g, f"{index}.", query, tokens)


def plain_attention(g: Graph, count: int, tokens: int) -> None:
    """Attention that takes queries, keys and values as one product gives them."""
    for index in range(count):
        qkv = g.input(f"{index}.qkv", random(1, tokens, (HEADS + 2 * KV_HEADS) * HEAD_DIM))
        attend(g, f"{index}.", [g.node("Cast", [qkv], [f"{index}.half"], to=FLOAT16), "", ""], tokens)


def attend(
    g: Graph,
    at: str,
    query: Sequence[str],
    tokens: int,
    *,
    past: int = 64,
    rows: int = 256,
    **attributes: int,
) -> None:
    """Add attention in float16 after ``past`` tokens, with keys and values of ``rows`` tokens in place."""
    states = [
        g.input(f"{at}past_{part}", random(1, KV_HEADS, rows, HEAD_DIM, kind=FLOAT16)) for part in ("key", "value")
    ]
    present = [f"{at}present_{part}" for part in ("key", "value")]
    lengths = [
        g.input("seqlens", np.array([past + tokens - 1], np.int32)),
        g.input("total", np.array(past + tokens, np.int32)),
    ]
    tables = [g.constant(name, np.ones((past + tokens, HEAD_DIM // 2), np.float16)) for name in ("cos", "sin")]
    g.node(
        "GroupQueryAttention",
        [*query, *states, *lengths, *tables],
        [f"{at}attended", *present],
        **{"num_heads": HEADS, "kv_num_heads": KV_HEADS, "do_rotary": 1, **attributes},
    )
    g.shared |= dict(zip(present, states, strict=True))
    g.outputs |= dict.fromkeys([f"{at}attended", *present], FLOAT16)


def windowed(rows: int, **attributes: int) -> Write:
    """Attention to a window, with keys and values of ``rows`` tokens."""

    def written(g: Graph, count: int, tokens: int) -> None:
        for index in range(count):
            qkv = g.input(f"{index}.qkv", random(1, tokens, (HEADS + 2 * KV_HEADS) * HEAD_DIM, kind=FLOAT16))
            query, more = [qkv, "", ""], {"local_window_size": WINDOW, **attributes}
            attend(g, f"{index}.", query, tokens, past=PAST, rows=rows, **more)

    return written


def product(**entries: str) -> Write:
    """A product with weights of 4 bits, as :data:`ROWS` says, under ``entries`` of the session's configuration."""

    def written(g: Graph, count: int, tokens: int) -> None:
        blocks, draw = HIDDEN // BLOCK, np.random.default_rng(0)
        codes = g.constant("codes", draw.integers(0, 256, (ROWS, blocks, BLOCK // 2), np.uint8))
        scales = g.constant("scales", draw.random((ROWS, blocks), np.float32))
        attributes = {"N": ROWS, "K": HIDDEN, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
        for index in range(count):
            x, y = g.input(f"{index}.x", random(1, tokens, HIDDEN)), f"{index}.y"
            g.outputs[g.node("MatMulNBits", [x, codes, scales], [y], **attributes)] = FLOAT
        g.entries |= {name.replace("__", "."): value for name, value in entries.items()}

    return written


def all_queries(g: Graph, count: int, tokens: int) -> None:
    """Attention from every position, of which the last alone is read."""
    for index in range(count):
        qkv = g.input(f"{index}.qkv", random(1, tokens, (HEADS + 2 * KV_HEADS) * HEAD_DIM, kind=FLOAT16))
        attend(g, f"{index}.", [qkv, "", ""], tokens, past=PAST, rows=PAST + max(TOKENS.values()))


def last_query(g: Graph, count: int, tokens: int) -> None:
    """Keys and values kept by an attention of as few heads, then that of the last position's queries."""
    rows, width = PAST + max(TOKENS.values()), KV_HEADS * HEAD_DIM
    for index in range(count):
        at, keys = f"{index}.", g.input(f"{index}.keys", random(1, tokens, width, kind=FLOAT16))
        values = g.input(f"{index}.values", random(1, tokens, width, kind=FLOAT16))
        query = g.input(f"{index}.query", random(1, 1, HEADS * HEAD_DIM, kind=FLOAT16))
        attend(g, f"{at}kept.", [keys, keys, values], tokens, past=PAST, rows=rows, num_heads=KV_HEADS)
        tables = [g.constant(name, np.ones((PAST + tokens, HEAD_DIM // 2), np.float16)) for name in ("cos", "sin")]
        row = g.input("row", np.array([[tokens - 1]], np.int64))
        turned = g.node("RotaryEmbedding", [query, row, *tables], [f"{at}turned"], num_heads=HEADS)
        none = g.input("none", np.zeros((1, 0, width), np.float16))
        kept, lengths = [f"{at}kept.present_{part}" for part in ("key", "value")], ["seqlens", "total"]
        heads = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
        inputs = [turned, none, none, *kept, *lengths]
        g.outputs[g.node("GroupQueryAttention", inputs, [f"{at}attended"], **heads)] = FLOAT16


IDEAS: Mapping[str, Mapping[str, Write]] = {
    "product, 896 → 1,152, int4-128": {
        "KleidiAI's kernel (as it is)": product(),
        "onnxruntime's own kernel (mlas.disable_kleidiai)": product(mlas__disable_kleidiai="1"),
    },
    "attention of the last layer, float16": {
        "from every token": all_queries,
        "from the last token alone": last_query,
    },
    "SiLU": {
        "QuickGelu, Mul (as it is)": gated(quick_gelu),
        "ScaledSiLU, Mul": gated(scaled_silu),
        "Sigmoid, Mul, Mul": gated(sigmoid),
    },
    "norm of a sum": {
        "float32 (as it is)": skip_norm(FLOAT),
        "float16, two Casts": skip_norm(FLOAT16),
    },
    "attention with norms of queries and keys, float16": {
        "nodes before attention (as it is)": normed_attention,
        "no norms: what norms inside could gain at most": plain_attention,
    },
    "window of 256, float16": {
        "all keys kept (as it is)": windowed(PAST + max(TOKENS.values())),
        "sliding_window_cache": windowed(WINDOW, sliding_window_cache=1),
    },
}
"""Parts of a layer, and the ways of computing each; the first is ours."""


def graph_of(write: Write, count: int, tokens: int) -> Graph:
    """A graph with a part so many times."""
    graph = Graph()
    write(graph, count, tokens)
    return graph


def samples(cpu: str, folder: Path, ideas: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Count ``ideas`` in one boot."""
    machine, cases, calls, files = (setup(), find_system()), [], [], {**IN_MACHINE}
    for idea in ideas:
        for way, write in IDEAS[idea].items():
            for phase, tokens in TOKENS.items():
                for count in (FEW, MANY):
                    graph, name = graph_of(write, count, tokens), f"{len(calls)}.onnx"
                    onnx.save(graph.model(), folder / name)
                    files[f"model/{name}"] = folder / name
                    asked = {"model": f"/model/{name}", "shared": graph.shared, "entries": graph.entries}
                    calls.append(Call(count_bound(), asked, graph.feeds))
                cases.append({"cpu": cpu, "idea": idea, "way": way, "phase": phase, "tokens": tokens})
    told = [answer["instructions"] for answer in boot(*machine, cpu, calls, files)]
    for case, few, many in zip(cases, told[::2], told[1::2], strict=True):
        yield {**case, "few": few, "many": many}


def count_bound() -> Any:
    """What the machine calls; imported from beside this script, as the machine has it."""
    from ideas_in_machine import count_bound as found

    return found


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Thousands of instructions a token."""
    rows = []
    columns = group(found, "cpu", "phase")
    for (idea, way), of_way in group(found, "idea", "way").items():
        by_column = {(one["cpu"], one["phase"]): one for one in of_way}
        cells = [f"{_each(by_column[key]) / 1e3:.1f}" if key in by_column else "–" for key in columns]
        rows.append([idea, way, *cells])
    header = [f"{cpu}, {phase}: thousands a token" for cpu, phase in columns]
    return table(["part of a layer", "computed by", *header], rows)


def _each(sample: Mapping[str, Any]) -> float:
    return float(sample["many"] - sample["few"]) / (MANY - FEW) / float(sample["tokens"])


def main() -> None:
    """Count, keep the raw counts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", nargs="*", default=["cortex-a76", "neoverse-n2"])
    parser.add_argument("--ideas", nargs="*", default=list(IDEAS), choices=IDEAS)
    arguments = parser.parse_args()
    path = RESULTS / f"{NAME}.jsonl"
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []
    with TemporaryDirectory() as folder:
        for cpu in arguments.cpus:
            found = list(samples(cpu, Path(folder), arguments.ideas))
            again = {(cpu, idea) for idea in arguments.ideas}
            kept = [one for one in kept if (one["cpu"], one["idea"]) not in again] + found
            save(NAME, sorted(kept, key=lambda one: (one["cpu"], list(IDEAS).index(one["idea"]))))
    print(report(kept))


if __name__ == "__main__":
    main()
