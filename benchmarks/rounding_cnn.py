"""CIFAR-10's ResNet-20 and ResNet-56 with weights in blocks: rounded to nearest, by GPTQ, and learned by autoround.

Weights of all convolutions but the first in 4 or 2 bits, activations in float: what rounding alone costs, by the
signal-to-noise ratio of the logits (SQNR) and top-1, on 2,000 test images. 200 other images, without labels, are all
that a method sees. ``in steps`` is autoround with ``sweeps = 0``, which learns products by gradients.

    python benchmarks/rounding_cnn.py [--data ../shared/data] [--models resnet20 resnet56]

takes a minute of one quiet core for ResNet-20.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import onnx
from common import RESULTS, ROOT, WORK, save, table
from resnet import build_resnet, normalize

from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.graph.qdq import prepare
from edgepress.exporter.learn.graphs.run import learn_graph
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import OptionValue, Recipe, Storage
from edgepress.exporter.streams.shipping_task import Coded
from edgepress.sessions import open_on_cpu

Sample = dict[str, Any]
BATCH, SEEN = 10, 200  # images
MODELS = {"resnet20": "ResNet-20 (0.27 M weights)", "resnet56": "ResNet-56 (0.85 M weights)"}
WAYS: Mapping[str, tuple[str, Mapping[str, OptionValue]]] = {
    "rtn": ("rtn", {}),
    "gptq": ("gptq", {}),
    "autoround": ("autoround", {"start": "gptq"}),
    "autoround, from rtn": ("autoround", {"start": "rtn"}),
    "autoround, in steps": ("autoround", {"start": "gptq", "sweeps": 0}),
}
FORMS = [(4, 32, way) for way in WAYS] + [(2, 16, way) for way in ("rtn", "gptq", "autoround")]


def measured(data: Path, name: str) -> Iterator[Sample]:
    """The float network, and each form."""
    folder = WORK / f"rounding-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    build_resnet(data / f"models/resnet_cifar10/{name}.safetensors", folder / "bn.onnx", batch="batch")
    prepare(folder / "bn.onnx", folder / "fp32.onnx")
    test, other = (np.load(data / f"vision/cifar10_{part}.npz") for part in ("test2000", "calibration1000"))
    images, labels, seen = normalize(test["images"]), test["labels"], normalize(other["images"][:SEEN])
    feeds = [{"images": seen[start : start + BATCH]} for start in range(0, SEEN, BATCH)]
    convolutions = [t.name for t in onnx.load(folder / "fp32.onnx").graph.initializer if len(t.dims) == 4]

    def logits(path: Path) -> np.ndarray:
        session = open_on_cpu(path)
        return np.concatenate([session.run(None, {"images": images[i : i + 100]})[0] for i in range(0, 2000, 100)])

    truth = logits(folder / "fp32.onnx")
    known = {"model": name, "images": len(labels), "calibration": SEEN}
    yield known | {"way": "float", "top1": float((truth.argmax(1) == labels).mean())}
    for bits, block, way in FORMS:
        method, options = WAYS[way]
        one = Storage(method, bits, block)
        asked = {method: dict(options)} if options else {}
        recipe = Recipe(
            name=way, weights=one, embedding=one, head=one, options=asked, activations=read_recipe("fp32").activations
        )
        coded = {weight: Coded(Scheme(method, bits, block)) for weight in convolutions[1:]}
        found = learn_graph(folder / "fp32.onnx", feeds, recipe, folder=folder / "learn", coded=coded)
        made = logits(found.file)
        ratio = float(np.square(truth).sum() / np.square(made - truth).sum())
        figures = {"sqnr_db": 10 * float(np.log10(ratio)), "top1": float((made.argmax(1) == labels).mean())}
        yield known | {"way": way, "bits": bits, "block": block, **figures, "notes": list(found.notes)}


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each form."""
    rows = [
        (
            MODELS[s["model"]],
            f"{s['bits']} bits, block {s['block']}" if "bits" in s else "float32",
            s["way"] if "bits" in s else "",
            f"{s['sqnr_db']:.1f}" if "bits" in s else "",
            f"{s['top1']:.2%}",
        )
        for s in samples
    ]
    return table(("model", "weights", "by", "SQNR of logits, dB", "top-1"), rows)


def main() -> None:
    """Measure the models asked for; the others stay as they were measured."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    old = RESULTS / "rounding_cnn.jsonl"
    lines = [json.loads(line) for line in old.read_text(encoding="utf-8").splitlines()] if old.is_file() else []
    samples = {name: [line for line in lines[1:] if line["model"] == name] for name in MODELS}
    for name in options.models:
        samples[name] = []
        for sample in measured(options.data, name):
            samples[name].append(sample)
            print(json.dumps(sample), flush=True)
        save("rounding_cnn", [one for found in samples.values() for one in found])
    print(report([one for found in samples.values() for one in found]))


if __name__ == "__main__":
    main()
