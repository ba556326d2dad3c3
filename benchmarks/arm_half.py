"""Do models that are no language models take fewer instructions in float16 on ARM?

ResNet-20, MobileNetV2 and MiniLM as bundles in float32 have them, and the same graphs in float16: every node; those for
which onnxruntime has kernels in float16 there (the rest in float32 between Casts); convolutions and products alone. One
image, or one text of 32 tokens. What overflows float16 stays in float32. Counted on an emulated processor
(``edgepress emulator setup --system`` first), and how far outputs are from float32's there.

    python benchmarks/arm_half.py [--data ../shared/data] [--cpus cortex-a76] [--models resnet20]

What is counted anew replaces the same samples of before; all others stay.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import onnx
from arm_ideas import IN_MACHINE, count_bound
from common import RESULTS, ROOT, group, save, table
from minilm import folder as minilm_folder
from mobilenet import build_mobilenet
from numpy.typing import NDArray
from resnet import build_resnet

from edgepress.exporter import export
from edgepress.exporter.graph.foreign.half import find_unfit, to_float16
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.files import parse_model
from edgepress.targets import CPU, HALF_ON_ARM, kernels_of
from edgepress.targets.emulator import Call, agreement, compare_model, find_system, setup
from edgepress.targets.emulator.system import boot

NAME = "arm_half"
CPUS = ("cortex-a76", "neoverse-n2")
MODELS = ("resnet20", "mobilenet", "minilm")
FORMS = ("float32", "float16", "float16 where there are kernels", "float16 in products")
TOKENS = 32
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
Feed = dict[str, NDArray[Any]]


def feed_of(model: str) -> Feed:
    """One image, or one text."""
    draw = np.random.default_rng(0)
    if model == "minilm":
        ids = draw.integers(1000, 20000, (1, TOKENS))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    size = {"resnet20": 32, "mobilenet": 224}[model]
    return {"images": draw.uniform(-1, 1, (1, 3, size, size)).astype(np.float32)}


def exported(model: str, data: Path, folder: Path) -> Path:
    """The model's graph in float32, weights inside the file."""
    source, weights = folder / f"{model}.source.onnx", data / "models"
    if model == "resnet20":
        build_resnet(weights / "resnet_cifar10" / "resnet20.safetensors", source, batch="batch")
    elif model == "mobilenet":
        build_mobilenet(next((weights / "mobilenet_v2").glob("*.safetensors")), source)
    else:
        source = minilm_folder()
    export(source, out=folder / model, recipe="fp32", target="arm64-cpu")
    return write(parse_model(folder / model / "model.onnx"), Weights(folder / model / "model.onnx"), folder, model, 0)


def write(graph: onnx.ModelProto, weights: Weights, folder: Path, model: str, number: int) -> Path:
    """Write a graph with its weights inside."""
    for tensor in graph.graph.initializer:
        tensor.CopyFrom(weights.inline(tensor))
    path = folder / f"{model}-{number}.onnx"
    path.write_bytes(graph.SerializeToString())
    return path


def has_half(node: onnx.NodeProto) -> bool:
    """Whether onnxruntime has a kernel in float16 on ARM."""
    if not node.domain and node.op_type in HALF_ON_ARM:
        return True
    kernels = kernels_of(CPU, node.domain, node.op_type)
    return any("tensor(float16)" in types for kernel in kernels for types in kernel.constraints.values())


def in_half(plain: Path, model: str, form: str, folder: Path) -> tuple[Path, int]:
    """The graph in a form, and how many nodes overflow in it."""
    graph, weights = parse_model(plain), Weights(plain)
    if not graph.graph.value_info:
        graph = onnx.shape_inference.infer_shapes(graph)
    unfit = set(find_unfit(plain, [feed_of(model)]))
    kept = set(unfit)
    for node in graph.graph.node:
        in_products = form != "float16 in products" or node.op_type in _PRODUCTS
        if not in_products or (form == "float16 where there are kernels" and not has_half(node)):
            kept.add(node.name)
    to_float16(graph, weights, kept)
    return write(graph, weights, folder, model, FORMS.index(form)), len(unfit)


def samples(cpu: str, models: Sequence[str], data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Count in one boot, after the outputs were compared by an emulator that does not count."""
    machine, cases, calls, files = (setup(), find_system()), [], [], {**IN_MACHINE}
    for model in models:
        plain, feed = exported(model, data, folder), feed_of(model)
        [truth] = compare_model(machine[0], plain, feed, [cpu])
        for form in FORMS:
            path, unfit = (plain, 0) if form == "float32" else in_half(plain, model, form, folder)
            [found] = [truth] if form == "float32" else compare_model(machine[0], path, feed, [cpu])
            pairs = [agreement(truth.outputs[name], found.outputs[name]) for name in truth.outputs]
            files[f"model/{path.name}"] = path
            calls.append(Call(count_bound(), {"model": f"/model/{path.name}", "shared": {}, "entries": {}}, feed))
            sqnr = None if form == "float32" else min(pair.sqnr_db for pair in pairs)
            cases.append({"cpu": cpu, "model": model, "form": form, "unfit": unfit, "sqnr_db": sqnr})
    for case, answer in zip(cases, boot(*machine, cpu, calls, files), strict=True):
        yield {**case, "instructions": answer["instructions"]}


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Millions of instructions, and by those in float32."""
    rows = []
    for (cpu, model), of_model in group(found, "cpu", "model").items():
        whole = next(one["instructions"] for one in of_model if one["form"] == "float32")
        for one in of_model:
            share, near = one["instructions"] / whole, one["sqnr_db"]
            cells = [f"{one['instructions'] / 1e6:.1f}", f"{share:.2f}", "–" if near is None else f"{near:.0f}"]
            rows.append([model, cpu, one["form"], *cells, str(one["unfit"])])
    header = ["model", "processor", "computed in", "millions of instructions", "by float32's", "SQNR, dB", "overflow"]
    return table(header, rows)


def counted() -> list[dict[str, Any]]:
    """The samples there are."""
    path = RESULTS / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def main() -> None:
    """Count, keep the raw counts and print the table."""
    data = Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--cpus", nargs="*", default=CPUS)
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        for cpu in asked.cpus:
            found = list(samples(cpu, asked.models, asked.data, Path(name)))
            kept = [one for one in counted() if one["cpu"] != cpu or one["model"] not in asked.models]
            save(NAME, sorted(kept + found, key=lambda one: (MODELS.index(one["model"]), CPUS.index(one["cpu"]))))
    print(report(counted()))


if __name__ == "__main__":
    main()
