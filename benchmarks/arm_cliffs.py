"""Which products of MatMulNBits, and which caches of attention, take a slow kernel on an ARM CPU?

Counts the instructions of each on emulated processors (``edgepress emulator setup --system`` first), decode (1 token)
and prefill (32 tokens), less those of an empty graph, and writes them to ``targets/legality/arm_cliffs.json``, from
which ``edgepress check`` warns. Counts are no times: memory and caches are not in them. They are the same at every boot
within 0.05 %. Products in float16 are not counted on a processor without it, where they end the process.
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from cliffs import TOKENS, TYPES, product_model
from common import ROOT, host, save, table
from onnx import TensorProto, helper, numpy_helper

from edgepress.calls.guest import Arrays
from edgepress.targets.emulator import Call, Installation, System, find_system, setup
from edgepress.targets.emulator.model import count_run
from edgepress.targets.emulator.system import boot

CPUS = {
    "cortex-a53": "without dotprod",
    "cortex-a76": "with dotprod",
    "neoverse-n2": "with int8 matrix products (i8mm)",
}
WITHOUT_FLOAT16 = {"cortex-a53"}  # where products in float16 end the process; attention does not
SIZE = 512  # rows and columns of the weights
BITS, BLOCKS, LEVELS = (2, 4, 8), (32, 128), (0, 4)
KEYS = ("bits", "block", "accuracy_level", "type", "zero_points")
EMPTY, FLOAT = ({**dict.fromkeys(KEYS, 0), "bits": bits, "type": "float", "zero_points": False} for bits in (0, 32))
CACHES = {
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
    "int4": TensorProto.UINT8,
}
HEADS, KV_HEADS, HEAD_DIM, PAST = 14, 2, 64, 1024  # attention of Qwen2.5-0.5B, after so many tokens
READ = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}
WRITTEN = ROOT / "targets" / "legality" / "arm_cliffs.json"


@dataclass(frozen=True)
class Case:
    """One model that is counted: what it is, by the keys of a sample, the model, and its inputs for so many tokens."""

    label: Mapping[str, Any]

    @property
    def is_cache(self) -> bool:
        """Whether it is attention, not a product."""
        return "cache" in self.label

    def model(self) -> onnx.ModelProto:
        """The model: one node."""
        return attention(self.label["cache"]) if self.is_cache else model_of(self.label)

    def inputs(self, tokens: int) -> Arrays:
        """Random inputs."""
        random = np.random.default_rng(1)
        if self.is_cache:
            return attention_inputs(self.label["cache"], tokens)
        return {"x": random.standard_normal((tokens, SIZE)).astype(TYPES[self.label["type"]][1])}


def cases(cpu: str) -> list[Case]:
    """What is counted on ``cpu``: an empty graph, MatMul in float32 (``bits`` 32), MatMulNBits, and attention."""
    types = [name for name in TYPES if name == "float" or cpu not in WITHOUT_FLOAT16]
    full = itertools.product(BITS, BLOCKS, LEVELS, types, (False, True))
    products = [EMPTY, FLOAT, *(dict(zip(KEYS, values, strict=True)) for values in full)]
    return [Case(label) for label in (*products, *({"cache": name} for name in CACHES))]


def model_of(product: Mapping[str, object]) -> onnx.ModelProto:
    """x (tokens, SIZE) → y (tokens, SIZE)."""
    if product["bits"] not in {0, 32}:
        return product_model(product, SIZE)
    weights, nodes = [], [helper.make_node("Identity", ["x"], ["y"])]
    if product["bits"] == 32:
        values = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
        weights, nodes = [numpy_helper.from_array(values, "w")], [helper.make_node("MatMul", ["x", "w"], ["y"])]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", SIZE]) for name in "xy"]
    graph = helper.make_graph(nodes, "product", infos[:1], infos[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _width(cache: str) -> int:
    return HEAD_DIM // 2 if cache == "int4" else HEAD_DIM  # two numbers in a byte


def attention(cache: str) -> onnx.ModelProto:
    """GroupQueryAttention whose keys and values (1, KV_HEADS, tokens, HEAD_DIM) are stored as ``cache`` says."""
    number = TensorProto.FLOAT16 if cache == "float16" else TensorProto.FLOAT
    names, scales = ["q", "k", "v", "past_key", "past_value", "seqlens_k", "total_sequence_length"], []
    attributes: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
    if cache in {"int8", "int4"}:
        attributes |= {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"}
        attributes["kv_cache_bit_width"] = int(cache.removeprefix("int"))
        scales = [helper.make_tensor(name, TensorProto.FLOAT, [1], [0.02]) for name in ("k_scale", "v_scale")]
        names += [*([""] * 5), "k_scale", "v_scale"]
    node = helper.make_node("GroupQueryAttention", names, ["y", "key", "value"], domain="com.microsoft", **attributes)
    value, stored = helper.make_tensor_value_info, CACHES[cache]
    inputs = [value(name, number, [1, "n", heads * HEAD_DIM]) for name, heads in READ.items()]
    inputs += [value(name, stored, [1, KV_HEADS, "past", _width(cache)]) for name in ("past_key", "past_value")]
    inputs += [value("seqlens_k", TensorProto.INT32, [1]), value("total_sequence_length", TensorProto.INT32, [])]
    outputs = [value("y", number, [1, "n", HEADS * HEAD_DIM])]
    outputs += [value(name, stored, [1, KV_HEADS, "total", _width(cache)]) for name in ("key", "value")]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", inputs, outputs, scales)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def attention_inputs(cache: str, tokens: int) -> Arrays:
    """Random queries, keys and values of ``tokens`` tokens, and of ``PAST`` before them."""
    random, kind = np.random.default_rng(1), np.float16 if cache == "float16" else np.float32
    feeds: Arrays = {
        name: random.standard_normal((1, tokens, heads * HEAD_DIM)).astype(kind) for name, heads in READ.items()
    }
    for name in ("past_key", "past_value"):
        shape, stored = (1, KV_HEADS, PAST, _width(cache)), helper.tensor_dtype_to_np_dtype(CACHES[cache])
        is_float = stored.kind == "f"
        feeds[name] = (random.standard_normal(shape) if is_float else random.integers(0, 100, shape)).astype(stored)
    total = PAST + tokens
    return feeds | {"seqlens_k": np.array([total - 1], np.int32), "total_sequence_length": np.array(total, np.int32)}


def count(
    machine: tuple[Installation, System], cpu: str, wanted: Sequence[Case], folder: Path
) -> Iterator[dict[str, object]]:
    """Boot ``cpu`` once and yield the count of each case and phase, as it was read off the clock."""
    calls, files = [], {}
    for index, case in enumerate(wanted):
        onnx.save(case.model(), folder / f"{index}.onnx")
        files[f"model/{index}.onnx"] = folder / f"{index}.onnx"
        for tokens in TOKENS.values():
            calls.append(Call(count_run, {"model": f"/model/{index}.onnx"}, case.inputs(tokens)))
    pairs = itertools.product(wanted, TOKENS)
    for (case, phase), told in zip(pairs, boot(*machine, cpu, calls, files), strict=True):
        yield {"cpu": cpu, **case.label, "phase": phase, "instructions": told["instructions"]}


def entries(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each processor and case: the count of each phase, less that of the empty graph."""
    empty = {(sample["cpu"], sample["phase"]): sample["instructions"] for sample in samples if sample.get("bits") == 0}
    found: dict[str, dict[str, Any]] = {}
    for sample in samples:
        if sample.get("bits") != 0:
            label = {name: sample[name] for name in ("cpu", *KEYS, "cache") if name in sample}
            entry = found.setdefault(json.dumps(label), label)
            entry[sample["phase"]] = sample["instructions"] - empty[sample["cpu"], sample["phase"]]
    return list(found.values())


def write(made: Sequence[Mapping[str, object]]) -> None:
    """Write the table that checks read."""
    head = {"host": host(), "date": time.strftime("%Y-%m-%d"), "unit": "instructions", "size": SIZE, "tokens": TOKENS}
    text = json.dumps({**head, "past": PAST, "cpus": CPUS}, indent=2).removesuffix("\n}")
    for name, is_cache in (("entries", False), ("caches", True)):
        lines = ",\n    ".join(json.dumps(entry) for entry in made if ("cache" in entry) == is_cache)
        text += f',\n  "{name}": [\n    {lines}\n  ]'
    WRITTEN.write_text(f"{text}\n}}\n", encoding="utf-8")


def main() -> None:
    """Count all, keep the raw counts, write the table and print it against float32."""
    machine = setup(), find_system()
    with TemporaryDirectory() as folder:
        samples = [sample for cpu in CPUS for sample in count(machine, cpu, cases(cpu), Path(folder))]
    print(f"raw counts: {save('arm_cliffs', samples)}")
    made = entries(samples)
    write(made)
    rows = []
    for entry in made:
        base = {"cache": "float"} if "cache" in entry else {"bits": FLOAT["bits"]}
        same = next(other for other in made if {"cpu": entry["cpu"], **base}.items() <= other.items())
        ratios = [f"{entry[phase] / same[phase]:.2f}" for phase in TOKENS]
        rows.append([str(entry.get(key, "")) for key in ("cpu", *KEYS, "cache")] + ratios)
    print("times as many instructions as in float32")
    print(table(["cpu", *KEYS, "cache", *TOKENS], rows))


if __name__ == "__main__":
    main()
