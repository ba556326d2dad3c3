"""Do models that are no language models take fewer instructions, or less memory, in float16 on ARM?

ResNet-20, MobileNetV2 (images of 96 x 96) and MiniLM as bundles in float32 have them, and the same graphs in float16:
every node; convolutions, products and attention alone, the rest in float32 between Casts. Beside them what recipes of
8 bits make of the model. One image, or one text of 32 tokens. What overflows float16 stays in float32. Counted on an
emulated processor (``edgepress emulator setup --system`` first), in one boot: instructions of a run, memory that the
process has more of afterwards than before it opened the file, and how far outputs are from those that this host
computes in float32.

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
from arm_ideas import IN_MACHINE
from common import RESULTS, ROOT, SIZES, group, save, table
from minilm import folder as minilm_folder
from mobilenet import build_mobilenet
from numpy.typing import NDArray
from resnet import build_resnet

from edgepress.exporter import export
from edgepress.exporter.graph.foreign.half import find_unfit, to_float16
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.files import parse_model
from edgepress.sessions import open_on_cpu
from edgepress.targets.emulator import Call, find_system, setup
from edgepress.targets.emulator.system import boot

NAME = "arm_half"
CPUS = ("cortex-a76", "neoverse-n2")
MODELS = {
    "resnet20": SIZES["resnet20"],
    "mobilenet": "MobileNetV2 (3.5 M weights)",
    "minilm": "MiniLM (22.6 M weights)",
}
FLOATS = ("float32", "float16", "float16 in products")
RECIPES = {"resnet20": ("int8-static",), "mobilenet": ("int8-static",), "minilm": ("int8", "int8-dynamic")}
TOKENS = 32
IMAGE = {"resnet20": 32, "mobilenet": 96}  # numbers of a side; the graph's layers are those of 224
_PRODUCTS = frozenset({"Attention", "Conv", "Gemm", "MatMul"})
Feed = dict[str, NDArray[Any]]


def feed_of(model: str, seed: int = 0) -> Feed:
    """One image, or one text."""
    draw = np.random.default_rng(seed)
    if model == "minilm":
        ids = draw.integers(1000, 20000, (1, TOKENS))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    size = IMAGE[model]
    return {"images": draw.uniform(-1, 1, (1, 3, size, size)).astype(np.float32)}


def exported(model: str, recipe: str, data: Path, folder: Path) -> Path:
    """The graph that the bundle for arm64-cpu has, weights inside the file."""
    source, weights, calibration = folder / f"{model}.source.onnx", data / "models", folder / f"{model}.npz"
    if model == "resnet20":
        build_resnet(weights / "resnet_cifar10" / "resnet20.safetensors", source, batch="batch")
    elif model == "mobilenet":
        build_mobilenet(next((weights / "mobilenet_v2").glob("*.safetensors")), source, IMAGE[model])
    else:
        source = minilm_folder()
    seen = {}
    if recipe == "int8-static":  # kernels take as many instructions for any ranges
        np.savez(calibration, images=np.stack([feed_of(model, seed)["images"] for seed in range(1, 9)]))
        seen = {"calibration": [calibration]}
    export(source, out=folder / model / recipe, recipe=recipe, target="arm64-cpu", **seen)
    graph = folder / model / recipe / "model.onnx"
    return write(parse_model(graph), Weights(graph), folder / f"{model}-{recipe}.onnx")


def write(graph: onnx.ModelProto, weights: Weights, path: Path) -> Path:
    """Write a graph with its weights inside."""
    for tensor in graph.graph.initializer:
        tensor.CopyFrom(weights.inline(tensor))
    path.write_bytes(graph.SerializeToString())
    return path


def in_half(plain: Path, model: str, form: str, folder: Path) -> tuple[Path, int]:
    """The graph in a form, and how many nodes overflow in it."""
    graph, weights = parse_model(plain), Weights(plain)
    if not graph.graph.value_info:
        graph = onnx.shape_inference.infer_shapes(graph)
    unfit = set(find_unfit(plain, [feed_of(model)]))
    kept = set(unfit)
    if form == "float16 in products":
        kept |= {node.name for node in graph.graph.node if node.op_type not in _PRODUCTS}
    to_float16(graph, weights, kept)
    return write(graph, weights, folder / f"{model}-half-{FLOATS.index(form)}.onnx"), len(unfit)


def forms_of(model: str, data: Path, folder: Path) -> Iterator[tuple[str, Path, int]]:
    """Each form of a model: its name, its file, and how many nodes overflow in it."""
    plain = exported(model, "fp32", data, folder)
    yield FLOATS[0], plain, 0
    for form in FLOATS[1:]:
        yield form, *in_half(plain, model, form, folder)
    for recipe in RECIPES[model]:
        yield recipe, exported(model, recipe, data, folder), 0


def samples(cpu: str, models: Sequence[str], data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Count all forms in one boot."""
    from ideas_in_machine import count_model

    cases, calls, files = [], [], {**IN_MACHINE}
    for model in models:
        feed, truth = feed_of(model), Feed()
        for form, path, unfit in forms_of(model, data, folder):
            if not truth:
                session = open_on_cpu(path)
                names = [value.name for value in session.get_outputs()]
                truth = {f"expected.{name}": value for name, value in zip(names, session.run(names, feed), strict=True)}
            files[f"model/{path.name}"] = path
            if not calls:  # the first session pays for what all have: it is not counted
                calls.append(Call(count_model, {"model": f"/model/{path.name}"}, feed | truth))
            calls.append(Call(count_model, {"model": f"/model/{path.name}"}, feed | truth))
            cases.append({"cpu": cpu, "model": model, "form": form, "unfit": unfit, "bytes": path.stat().st_size})
    for case, answer in zip(cases, boot(setup(), find_system(), cpu, calls, files)[1:], strict=True):
        yield {**case, **answer}


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Millions of instructions, megabytes, both by those in float32."""
    rows = []
    for (cpu, model), of_model in group(found, "cpu", "model").items():
        whole = next(one for one in of_model if one["form"] == FLOATS[0])
        for one in of_model:
            shares = (f"{one[key] / unit:,.1f} ({one[key] / whole[key]:.2f})" for key, unit in _COLUMNS.items())
            rows.append([MODELS[model], cpu, one["form"], *shares, f"{one['sqnr_db']:.0f}"])
    header = ["model", "processor", "computed in", "millions of instructions", "MB of memory", "MB of file", "SQNR, dB"]
    return table(header, rows)


_COLUMNS = {"instructions": 1e6, "memory": 1e6, "bytes": 1e6}


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
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        for cpu in asked.cpus:
            found = list(samples(cpu, asked.models, asked.data, Path(name)))
            kept = [one for one in counted() if one["cpu"] != cpu or one["model"] not in asked.models]
            save(NAME, sorted(kept + found, key=lambda one: (list(MODELS).index(one["model"]), CPUS.index(one["cpu"]))))
    print(report(counted()))


if __name__ == "__main__":
    main()
