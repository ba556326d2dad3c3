"""Which products of MatMulNBits take a slow kernel on an ARM CPU without dotprod?

Counts the instructions of every product on emulated processors (``edgepress emulator setup --system`` first), decode
(1 token) and prefill (32 tokens), less those of an empty graph, and writes them to
``targets/legality/arm_cliffs.json``, from which ``edgepress check`` warns. Counts are no times: memory and caches are
not in them. They are the same at every boot within 0.05 %.
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from cliffs import TOKENS, product_model
from common import ROOT, host, save, table
from onnx import TensorProto, helper, numpy_helper

from edgepress.targets.emulator import Call, Installation, System, find_system, setup
from edgepress.targets.emulator.model import count_run
from edgepress.targets.emulator.system import boot

CPUS = {"cortex-a53": "without dotprod", "cortex-a76": "with dotprod"}
SIZE = 512  # rows and columns of the weights
BITS, BLOCKS, LEVELS = (2, 4, 8), (32, 128), (0, 4)
KEYS = ("bits", "block", "accuracy_level", "type", "zero_points")
EMPTY, FLOAT = ({**dict.fromkeys(KEYS, 0), "bits": bits, "type": "float", "zero_points": False} for bits in (0, 32))
WRITTEN = ROOT / "targets" / "legality" / "arm_cliffs.json"


def products() -> list[dict[str, object]]:
    """Every product that is counted: an empty graph, MatMul in float32 (``bits`` 32), and MatMulNBits."""
    full = itertools.product(BITS, BLOCKS, LEVELS, ("float",), (False, True))
    return [EMPTY, FLOAT, *(dict(zip(KEYS, values, strict=True)) for values in full)]


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


def count(
    machine: tuple[Installation, System], cpu: str, wanted: Sequence[Mapping[str, object]], folder: Path
) -> Iterator[dict[str, object]]:
    """Boot ``cpu`` once and yield the count of each product and phase, as it was read off the clock."""
    calls, files = [], {}
    for index, product in enumerate(wanted):
        onnx.save(model_of(product), folder / f"{index}.onnx")
        files[f"model/{index}.onnx"] = folder / f"{index}.onnx"
        for tokens in TOKENS.values():
            x = np.random.default_rng(1).standard_normal((tokens, SIZE)).astype(np.float32)
            calls.append(Call(count_run, {"model": f"/model/{index}.onnx"}, {"x": x}))
    pairs = itertools.product(wanted, TOKENS)
    for (product, phase), told in zip(pairs, boot(*machine, cpu, calls, files), strict=True):
        yield {"cpu": cpu, **product, "phase": phase, "instructions": told["instructions"]}


def entries(samples: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """One entry for each processor and product: the count of each phase, less that of the empty graph."""
    counts = {tuple(sample.values())[:-1]: int(str(sample["instructions"])) for sample in samples}
    found: dict[tuple[object, ...], dict[str, object]] = {}
    for (cpu, *product, phase), instructions in counts.items():
        if tuple(product) != tuple(EMPTY.values()):
            entry = found.setdefault((cpu, *product), {"cpu": cpu, **dict(zip(KEYS, product, strict=True))})
            entry[str(phase)] = instructions - counts[cpu, *EMPTY.values(), phase]
    return list(found.values())


def write(made: Sequence[Mapping[str, object]]) -> None:
    """Write the table that checks read."""
    lines = ",\n    ".join(json.dumps(entry) for entry in made)
    head = {"host": host(), "date": time.strftime("%Y-%m-%d"), "unit": "instructions", "size": SIZE, "tokens": TOKENS}
    text = json.dumps({**head, "cpus": CPUS}, indent=2).removesuffix("\n}")
    WRITTEN.write_text(f'{text},\n  "entries": [\n    {lines}\n  ]\n}}\n', encoding="utf-8")


def main() -> None:
    """Count all, keep the raw counts, write the table and print it against float32."""
    machine = setup(), find_system()
    with TemporaryDirectory() as folder:
        samples = [sample for cpu in CPUS for sample in count(machine, cpu, products(), Path(folder))]
    print(f"raw counts: {save('arm_cliffs', samples)}")
    made = entries(samples)
    write(made)
    rows = []
    for entry in made:
        same = next(other for other in made if other["cpu"] == entry["cpu"] and other["bits"] == FLOAT["bits"])
        ratios = [f"{int(str(entry[phase])) / int(str(same[phase])):.2f}" for phase in TOKENS]
        rows.append([str(entry[key]) for key in ("cpu", *KEYS)] + ratios)
    print("times as many instructions as MatMul in float32")
    print(table(["cpu", *KEYS, *TOKENS], rows))


if __name__ == "__main__":
    main()
