"""How long one decoded token's product with a weight takes, measured here with onnxruntime.

The figures are of the machine that exports; other devices are faster or slower, with little change in the order of the
candidates. Copies of a weight are multiplied one after the other, together larger than the caches, as in a model.
"""

import statistics
import time

import numpy as np
from onnx import TensorProto

from edgepress import __version__
from edgepress.cores import usable_cores
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.graph.builder import CONTRIB, GraphBuilder
from edgepress.exporter.learn.budget.sensitivity import TensorGroup
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.plan.layout import region_bytes
from edgepress.sessions import open_on_cpu, session_options

_BYTES = 48 << 20  # weights multiplied in one run: beyond the caches of what exports
_COPIES = 64  # at most; a model of tiny matrices does fit into caches
_RUNS = 7


def group_ms(decoder: Decoder, groups: list[TensorGroup], accuracy_level: int) -> list[list[float]]:
    """Milliseconds a token of each candidate of each group; equal shapes and schemes are measured once."""
    known: dict[tuple[tuple[int, ...], Scheme | None], float] = {}

    def one(weight: Weight, scheme: Scheme | None) -> float:
        if weight.kind == "embedding" and not decoder.tied:
            return 0.0  # one row is looked up
        key = weight.shape, scheme
        if key not in known:
            known[key] = matmul_ms(weight.shape, scheme, accuracy_level)
        return known[key]

    return [
        [
            sum(one(weight, scheme) for weight, scheme in zip(group.weights, candidate.schemes, strict=True))
            for candidate in group.candidates
        ]
        for group in groups
    ]


def matmul_ms(shape: tuple[int, ...], scheme: Scheme | None, accuracy_level: int) -> float:
    """Milliseconds of one row times a weight (rows, columns) as ``scheme`` stores it: the median of several runs."""
    rows, columns = shape
    nbytes = sum(region_bytes(shape, scheme).values())
    copies = min(_COPIES, max(1, _BYTES // nbytes))
    random = np.random.default_rng(0)
    g = GraphBuilder("")
    x = g.input("x", TensorProto.FLOAT, (1, columns))
    for copy in range(copies):
        output = f"y{copy}"
        if scheme is None:
            weight = g.constant(f"w{copy}", random.standard_normal(shape, np.float32))
            g.node("FusedMatMul", [x, weight], output, domain=CONTRIB, transB=1)
        else:
            values = random.integers(0, 256, scheme.values_shape(rows, columns), np.uint8)
            scales = random.random(scheme.scales_shape(rows, columns), np.float32)
            inputs = [x, g.constant(f"v{copy}", values), g.constant(f"s{copy}", scales)]
            if not scheme.symmetric:
                points = random.integers(0, 256, scheme.zero_points_shape(rows, columns), np.uint8)
                inputs.append(g.constant(f"z{copy}", points))
            g.node(
                "MatMulNBits",
                inputs,
                output,
                domain=CONTRIB,
                N=rows,
                K=columns,
                bits=scheme.bits,
                block_size=scheme.block_size,
                accuracy_level=accuracy_level,
            )
        g.output(output, TensorProto.FLOAT, (1, rows))
    session = open_on_cpu(g.model("speed", __version__).SerializeToString(), session_options(usable_cores()))
    feeds = {"x": random.standard_normal((1, columns), np.float32)}
    samples = []
    for _ in range(_RUNS + 1):
        start = time.perf_counter()
        session.run(None, feeds)
        samples.append((time.perf_counter() - start) * 1e3 / copies)
    return statistics.median(samples[1:])  # the first one reads the weights for the first time
