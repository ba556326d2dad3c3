"""Which combinations of bits, block, accuracy level and type take a slow kernel of MatMulNBits?

Times every combination with onnxruntime's CPU provider on one thread, decode (1 token) and prefill (32 tokens), and
writes the best of several runs to ``targets/legality/cliffs.json``, from which ``edgepress check`` warns. Time is that
of the thread on its core, so that other processes hardly count.
"""

import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import onnx
import onnxruntime
from common import ROOT, host, save, table
from onnx import TensorProto, helper, numpy_helper

from edgepress.sessions import open_on_cpu, session_options

SIZE = 1024  # rows and columns of the weights
TOKENS = {"decode": 1, "prefill": 32}
BITS, BLOCKS, LEVELS = (2, 4, 8), (16, 32, 64, 128, 256), (0, 1, 2, 3, 4)
ODD_BLOCKS = (8, 24, 48, 512)
TYPES = {"float": (TensorProto.FLOAT, np.float32), "float16": (TensorProto.FLOAT16, np.float16)}
LEAST_RUNS, MOST_RUNS, LEAST_SECONDS = 8, 40, 0.05
FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_fp16", "amx_int8", "asimddp", "i8mm", "fphp", "sve")
WRITTEN = ROOT / "targets" / "legality" / "cliffs.json"


def product_model(combination: Mapping[str, object], size: int = SIZE) -> onnx.ModelProto:
    """x (tokens, size) through one MatMulNBits of random codes (size, size)."""
    bits, block, level = (int(str(combination[key])) for key in ("bits", "block", "accuracy_level"))
    number, dtype = TYPES[str(combination["type"])]
    random = np.random.default_rng(0)
    blocks = -(-size // block)
    weights = [
        numpy_helper.from_array(random.integers(0, 256, (size, blocks, block * bits // 8), dtype=np.uint8), "codes"),
        numpy_helper.from_array((random.random((size, blocks)) * 0.01).astype(dtype), "scales"),
    ]
    if combination["zero_points"]:
        shape = (size, -(-blocks * bits // 8))
        weights.append(numpy_helper.from_array(random.integers(0, 256, shape, dtype=np.uint8), "zero_points"))
    attributes = {"K": size, "N": size, "bits": bits, "block_size": block, "accuracy_level": level}
    inputs = ["x", *(weight.name for weight in weights)]
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **attributes)
    values = [helper.make_tensor_value_info(name, number, ["tokens", size]) for name in "xy"]
    graph = helper.make_graph([node], "product", values[:1], values[1:], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def open_session(combination: Mapping[str, object]) -> onnxruntime.InferenceSession:
    """Open a session on one product."""
    options = session_options(1)
    options.log_severity_level = 4
    return open_on_cpu(product_model(combination).SerializeToString(), options)


def measure(session: onnxruntime.InferenceSession, tokens: int, dtype: type) -> list[float]:
    """Seconds of each run, after one to warm up."""
    x = np.random.default_rng(1).standard_normal((tokens, SIZE)).astype(dtype)
    session.run(None, {"x": x})
    samples: list[float] = []
    while len(samples) < LEAST_RUNS or (len(samples) < MOST_RUNS and sum(samples) < LEAST_SECONDS):
        start = time.thread_time()
        session.run(None, {"x": x})
        samples.append(round(time.thread_time() - start, 7))
    return samples


def combinations() -> list[dict[str, object]]:
    """Every combination, and odd blocks at one level to see whether they are taken at all."""
    keys = ("bits", "block", "accuracy_level", "type", "zero_points")
    full = itertools.product(BITS, BLOCKS, LEVELS, TYPES, (False, True))
    odd = itertools.product(BITS, ODD_BLOCKS, (4,), ("float",), (False,))
    return [dict(zip(keys, values, strict=True)) for values in (*full, *odd)]


def cpu_features() -> list[str]:
    """Those features of this CPU that kernels are chosen by."""
    words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return [feature for feature in FEATURES if feature in words]


def main() -> None:
    """Measure all, keep the raw samples, write the table that checks read, print the worst."""
    samples, entries = [], []
    for combination in combinations():
        try:
            session = open_session(combination)
        except Exception as error:  # onnxruntime's exceptions have no common type
            entries.append({**combination, "refused": str(error).splitlines()[0][-160:]})
            continue
        entry = dict(combination)
        for phase, tokens in TOKENS.items():
            seconds = measure(session, tokens, TYPES[str(combination["type"])][1])
            samples.append({**combination, "phase": phase, "seconds": seconds})
            entry[phase] = round(min(seconds) * 1e6, 1)
        entries.append(entry)
    print(f"raw samples: {save('cliffs', samples)}")
    where = {"host": host(), "features": cpu_features(), "date": time.strftime("%Y-%m-%d"), "unit": "microseconds"}
    lines = ",\n    ".join(json.dumps(entry) for entry in entries)
    head = json.dumps({**where, "size": SIZE, "tokens": TOKENS}, indent=2).removesuffix("\n}")
    WRITTEN.write_text(f'{head},\n  "entries": [\n    {lines}\n  ]\n}}\n', encoding="utf-8")
    print_worst([entry for entry in entries if "refused" not in entry])


def print_worst(entries: list[dict[str, object]]) -> None:
    """Print, for bits, level and type, how much slower each block is than the best of the same bits."""
    rows = []
    for bits, level, kind in itertools.product(BITS, LEVELS, TYPES):
        row = [str(bits), str(level), kind]
        for phase, block in itertools.product(TOKENS, BLOCKS):
            same = [float(str(entry[phase])) for entry in entries if entry["bits"] == bits]
            found = next(
                float(str(entry[phase]))
                for entry in entries
                if (entry["bits"], entry["accuracy_level"], entry["type"], entry["block"], entry["zero_points"])
                == (bits, level, kind, block, False)
            )
            row.append(f"{found / min(same):.1f}")
        rows.append(row)
    header = ["bits", "level", "type", *(f"{phase} {block}" for phase, block in itertools.product(TOKENS, BLOCKS))]
    print("times as long as the best combination of the same bits, without zero points")
    print(table(header, rows))


if __name__ == "__main__":
    main()
