"""Which other ways of computing a part of a layer take fewer instructions on ARM?

Each is counted on an emulated processor (``edgepress emulator setup --system`` first) as nodes alone, one layer's of
them: the difference of a graph with three of a part and one with one, halved. Inputs and outputs lie in memory of their
own, keys and values are written in place.

    python benchmarks/arm_ideas.py [--cpus cortex-a76]
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from common import group, save, table
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
IN_MACHINE = {"import/ideas_in_machine.py": Path(__file__).with_name("ideas_in_machine.py")}


@dataclass
class Graph:
    """A graph that is being written: nodes, constants, inputs with their values, outputs."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    feeds: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; its first output."""
        names = {"QuickGelu", "ScaledSiLU", "SkipSimplifiedLayerNormalization", "GroupQueryAttention"}
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
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
        do_rotary=1,
        **attributes,
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


IDEAS: Mapping[str, Mapping[str, Write]] = {
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


def samples(cpu: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Count all in one boot."""
    machine, cases, calls, files = (setup(), find_system()), [], [], {**IN_MACHINE}
    for idea, ways in IDEAS.items():
        for way, write in ways.items():
            for phase, tokens in TOKENS.items():
                for count in (FEW, MANY):
                    graph, name = graph_of(write, count, tokens), f"{len(calls)}.onnx"
                    onnx.save(graph.model(), folder / name)
                    files[f"model/{name}"] = folder / name
                    asked = {"model": f"/model/{name}", "shared": graph.shared}
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
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for cpu in arguments.cpus:
            found += samples(cpu, Path(folder))
            save("arm_ideas", found)
    print(report(found))


if __name__ == "__main__":
    main()
