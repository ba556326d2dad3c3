"""Is it faster to fuse q, k and v, or gate and up, into one MatMulNBits?

Times chains of the two forms with onnxruntime's own kernels in turn, 1 and 2 threads, decode (1 token) and prefill
(128 tokens), at Qwen2.5-0.5B's dimensions. The exporter fuses what this shows to be faster: q, k and v.
"""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import onnxruntime
from common import group, save, spread, table
from decode_speed import rest, timed
from onnx import TensorProto, helper, numpy_helper

from edgepress.sessions import open_on_cpu, session_options

HIDDEN, INTERMEDIATE, KV, HEAD = 896, 4864, 128, 64
CHAIN = 6  # layers in a row, so that a call is long enough to time


class Chain:
    """A chain of small graphs hidden → hidden over MatMulNBits with random int4 weights."""

    def __init__(self, block: int) -> None:
        self.block, self.nodes, self.constants = block, [], []
        self.random = np.random.default_rng(0)

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer."""
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def linear(self, x: str, rows: int, columns: int, output: str) -> str:
        """Add one MatMulNBits node."""
        shape = (rows, columns // self.block, self.block // 2)
        values = self.constant(f"{output}.w", self.random.integers(0, 256, shape, dtype=np.uint8))
        scales = self.constant(f"{output}.s", self.random.random(shape[:2], dtype=np.float32) * 0.01)
        attributes = {"K": columns, "N": rows, "bits": 4, "block_size": self.block, "accuracy_level": 4}
        node = helper.make_node("MatMulNBits", [x, values, scales], [output], domain="com.microsoft", **attributes)
        self.nodes.append(node)
        return output

    def node(self, op: str, inputs: list[str], outputs: list[str], **attributes: object) -> str:
        """Add any other node."""
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0]

    def qkv(self, x: str, name: str, fused: bool) -> str:
        """Q, k and v as GroupQueryAttention takes them, packed in one tensor or three, and the attention itself."""
        if fused:
            inputs = [self.linear(x, HIDDEN + 2 * KV, HIDDEN, f"{name}.qkv"), "", ""]
        else:
            query = self.linear(x, HIDDEN, HIDDEN, f"{name}.q")
            inputs = [query, *(self.linear(x, KV, HIDDEN, f"{name}.{part}") for part in "kv")]
        outputs = [f"{name}.y", f"{name}.present_key", f"{name}.present_value"]
        attributes = {"num_heads": HIDDEN // HEAD, "kv_num_heads": KV // HEAD, "domain": "com.microsoft"}
        return self.node("GroupQueryAttention", [*inputs, "", "", "seqlens_k", "total"], outputs, **attributes)

    def mlp(self, x: str, name: str, fused: bool) -> str:
        """Gate and up, SiLU, down."""
        gate, up = f"{name}.gate", f"{name}.up"
        if fused:
            both = self.linear(x, 2 * INTERMEDIATE, HIDDEN, f"{name}.both")
            sizes = self.constant(f"{name}.sizes", np.array([INTERMEDIATE, INTERMEDIATE], np.int64))
            self.node("Split", [both, sizes], [gate, up], axis=-1)
        else:
            self.linear(x, INTERMEDIATE, HIDDEN, gate)
            self.linear(x, INTERMEDIATE, HIDDEN, up)
        act = self.node("QuickGelu", [gate], [f"{name}.act"], domain="com.microsoft", alpha=1.0)
        mixed = self.node("Mul", [act, up], [f"{name}.mixed"])
        return self.linear(mixed, HIDDEN, INTERMEDIATE, f"{name}.y")


def session(what: str, fused: bool, block: int, threads: int) -> onnxruntime.InferenceSession:
    """Open a session on a chain."""
    chain = Chain(block)
    x = "x"
    for index in range(CHAIN):
        x = getattr(chain, what)(x, f"{what}{index}", fused)
    hidden, output = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "tokens", HIDDEN]) for n in ("x", x))
    lengths = [("seqlens_k", [1]), ("total", [])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in lengths]
    graph = helper.make_graph(chain.nodes, "chain", [hidden, *inputs], [output], chain.constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return open_on_cpu(model, session_options(threads))


def main() -> None:
    """Time both forms in turn, keep the raw samples, print the table."""
    samples: list[dict[str, object]] = []
    for what in ("qkv", "mlp"):
        for block in (32, 128):
            for threads in (1, 2):
                sessions = [session(what, fused, block, threads) for fused in (False, True)]
                for tokens, turns in ((1, 60), (128, 8)):
                    x = np.random.default_rng(1).standard_normal((1, tokens, HIDDEN), dtype=np.float32)
                    lengths = {"seqlens_k": np.array([tokens - 1], np.int32), "total": np.array(tokens, np.int32)}
                    feeds = {"x": x, **lengths}
                    pairs = []
                    for _ in range(turns + 2):
                        pair = []
                        for one in sessions:
                            rest()
                            one.run(None, feeds)  # its threads wake up
                            pair.append(timed(partial(one.run, None, feeds)))
                        pairs.append(pair)
                    pairs = pairs[2:]  # warm-up
                    key = {"what": what, "block": block, "threads": threads, "tokens": tokens}
                    samples += [{**key, "apart_s": apart, "fused_s": fused} for apart, fused in pairs]
    print(f"raw samples: {save('fusion', samples)}")
    print(report(samples))


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The table, from raw samples."""
    rows = []
    for case, pairs in group(samples, "what", "block", "threads", "tokens").items():
        milliseconds = statistics.median(one["fused_s"] for one in pairs) * 1e3 / CHAIN
        rows.append(
            (*map(str, case), f"{milliseconds:.3f}", spread([one["apart_s"] / one["fused_s"] for one in pairs]))
        )
    return table(("projection", "block", "threads", "tokens", "fused ms", "apart ÷ fused"), rows)


if __name__ == "__main__":
    main()
