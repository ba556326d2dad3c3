"""CIFAR-10's ResNets with half of their multiply-adds: top-1 after each pruning step, and trained back.

The 1,000 calibration images, without their labels, are all that any step sees: they tell which channels matter, every
convolution learns by least squares to make what it made before from what still comes in, and the original's outputs and
sums inside teach the rest, on images that are turned, zoomed, moved, mixed and cut. Scored on 2,000 test images, which
nothing is chosen by. Channels go inside residual blocks, so that all sums keep their width: the same share in each, or
by what the outputs lose for the multiply-adds that are saved. Or convolutions are written as depthwise filters and
1 × 1 convolutions, and filters go.

    python benchmarks/pruned_cnn.py [--data ../shared/data] [--models resnet20 resnet56] [--what channels filters]
        [--steps 0 400 1500] [--images 250] [--only-steps] [--count cortex-a76]

trains anew for each number of steps (0: least squares alone, of all images), and as long as the least of these says on
fewer images. A killed run goes on. Times are of one image on one thread of this host, by onnxruntime; ``--count``
counts its instructions on an emulated processor, too (``edgepress emulator setup --system`` first).
A step takes 0.2 s of one quiet core for ResNet-20 and 0.5 s for ResNet-56.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
from arm_ideas import IN_MACHINE
from common import RESULTS, ROOT, WORK, save, table
from ideas_in_machine import count_model
from numpy.typing import NDArray
from resnet import build_resnet, normalize

from edgepress.exporter.graph.qdq import prepare
from edgepress.exporter.learn.pruning.graphs import shrink_graph
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.sessions import open_on_cpu, session_options
from edgepress.targets.emulator import Call, find_system, setup
from edgepress.targets.emulator.system import boot

BATCH = 50  # images
LOOKED_AT = 6  # batches, by what chooses channels
SHARE = 0.5  # of the multiply-adds that stays
LESS = (0.6, 0.75, 0.9)  # shares that stay, without training
SAME = {"share": SHARE, "uniform": True, "only": "layer*.conv1", "samples": LOOKED_AT}
BEST, FILTERS = "outputs by their price, least squares", "filters, least squares"
TRAINED = {"batch": 64, "features": 1.0, "rate": 0.005, "whiten": True, "samples": 1000 // BATCH} | {
    "flip": True,
    "zoom": 1.4,
    "shift": 4,
    "mix": True,
    "paste": True,
}
OF = {"channels": BEST, "filters": FILTERS}
TIMED = 300  # runs
WAYS = {
    "weights": {"by": "weights"},
    "outputs": {"by": "outputs"},
    "weights, least squares": {"by": "weights", "mend": True},
    "outputs, least squares": {"by": "outputs", "mend": True},
    BEST: {"by": "outputs", "mend": True, "uniform": False},
}
BLOCKS = {"resnet20": 9, "resnet56": 27}

Sample = dict[str, Any]
Run = tuple[str, int, int]
"""What goes, as :data:`OF` names it, steps of training, and images."""


def measure(data: Path, name: str, runs: Sequence[Run], *, others: bool, cpu: str = "") -> Iterator[Sample]:
    """The float network, and trained back in ``runs``; with ``others`` each way to choose channels."""
    folder = WORK / f"pruned-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    build_resnet(data / f"models/resnet_cifar10/{name}.safetensors", folder / "bn.onnx", batch="batch")
    prepare(folder / "bn.onnx", folder / "fp32.onnx")
    test, calibration = (np.load(data / f"vision/cifar10_{part}.npz") for part in ("test2000", "calibration1000"))
    images, labels, seen = normalize(test["images"]), test["labels"], normalize(calibration["images"])

    def samples(count: int) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        return ({"images": seen[start : min(start + BATCH, count)]} for start in range(0, count, BATCH))

    def score(path: Path) -> Sample:
        session = open_on_cpu(path)
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        logits = np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])
        right = {"top1": float((logits.argmax(1) == labels).mean()), "images": len(labels)}
        counted = {"instructions": {cpu: instructions(path, images[:1], cpu)}} if cpu else {}
        return right | counted | {"microseconds": microseconds(path, images[:1])}

    def shrunk(step: Sample, what: str = "channels", count: int = len(seen), **trained: Any) -> Sample:
        asked = {what: (SAME if what == "channels" else {"share": SHARE}) | step}
        asked |= {"retrain": trained} if trained else {}
        recipe = dataclasses.replace(read_recipe("fp32"), prune=tuple(asked), options=asked)
        words = [f"{value:g}" if isinstance(value, float) else f"{value}" for value in step.values()]
        words += [f"{count}-images"] if count < len(seen) else []
        place = "-".join(words if what == "channels" else [what, *words])
        found = shrink_graph(
            folder / "fp32.onnx", recipe, lambda: samples(count), folder=folder / f"{place}-{trained.get('steps', 0)}"
        )
        originals.append(found.steps[0])
        return {**found.steps[-1], **score(found.file)}

    originals: list[Mapping[str, object]] = []
    for what, steps, count in runs:
        feeds = -(-count // BATCH)
        looked = (WAYS[BEST] if what == "channels" else {}) | {"samples": feeds}
        trained = TRAINED | {"steps": steps, "features_at": BLOCKS[name], "samples": feeds}
        found = shrunk(looked, what, count, **(trained if steps else {}))
        more = {"steps": steps, "batch": TRAINED["batch"], "seen": count}
        yield {"model": name, "what": OF[what] + (", retrained" if steps else ""), **found, **more}
    for way, chosen in WAYS.items() if others else ():
        yield {"model": name, "what": way, **shrunk(chosen)}
    for share in LESS if others else ():
        yield {"model": name, "what": BEST, **shrunk(WAYS[BEST] | {"share": share})}
    yield {"model": name, "what": "float", **originals[0], **score(folder / "fp32.onnx")}


def microseconds(path: Path, image: NDArray[np.float32]) -> float:
    """The median time of one image on one thread, which a busy host lengthens little: time that the thread had."""
    session, times = open_on_cpu(path, session_options(1)), []
    for _ in range(TIMED):
        begun = time.thread_time()
        session.run(None, {"images": image})
        times.append(time.thread_time() - begun)
    return 1e6 * float(np.median(times))


def instructions(path: Path, image: NDArray[np.float32], cpu: str) -> int:
    """How many instructions an emulated processor takes for one image."""
    session = open_on_cpu(path)
    (logits,) = session.run(None, {"images": image})
    call = Call(count_model, {"model": "/model/pruned.onnx"}, {"images": image, "expected.logits": logits})
    files = {**IN_MACHINE, "model/pruned.onnx": path}
    _, found = boot(setup(), find_system(), cpu, [call, call], files)  # the first session pays for what all have
    return int(found["instructions"])


def in_order(samples: Sequence[Sample]) -> list[Sample]:
    """The float network, channels gone, and what was trained, as they are read."""
    return sorted(samples, key=lambda one: (list(BLOCKS).index(one["model"]), one["what"] != "float", "steps" in one))


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """One table: a row for each model and step."""
    header = ("model", "what goes, chosen by", "multiply-adds", "weights", "training", "top-1", "lost", "µs an image")
    cpus = sorted({cpu for one in samples for cpu in one.get("instructions", ())})
    header = (*header, *(f"instructions, {cpu}" for cpu in cpus))
    whole = {sample["model"]: sample for sample in samples if sample["what"] == "float"}
    rows = []
    for sample in samples:
        first = whole[sample["model"]]
        lost, counted = 100 * (first["top1"] - sample["top1"]), sample.get("instructions", {})
        rows.append(
            (
                f"{sample['model']} ({first['parameters']:,} weights)",
                sample["what"],
                f"{sample['multiply_adds'] / 1e6:.1f} M",
                f"{sample['parameters']:,}",
                _training(sample),
                f"{100 * sample['top1']:.2f} %",
                "" if sample is first else f"{lost:.2f}",
                f"{sample['microseconds']:.0f}" if "microseconds" in sample else "",
                *(f"{counted[cpu] / 1e6:.1f} M" if cpu in counted else "" for cpu in cpus),
            )
        )
    return table(header, rows)


def _run(sample: Mapping[str, Any]) -> Run | None:
    """The run that it is of, None where steps were not asked for."""
    what = "filters" if sample["what"].startswith(FILTERS) else "channels"
    return (what, sample["steps"], sample["seen"]) if "steps" in sample else None


def _training(sample: Mapping[str, Any]) -> str:
    """How long it was trained, and on how many images."""
    if not sample.get("steps"):
        return f"none, {sample['seen']:,} images looked at" if "seen" in sample else ""
    return f"{sample['steps']:,} steps of {sample['batch']}, {sample['seen']:,} images"


def main() -> None:
    """Measure the models asked for; the others stay as they were measured."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--models", nargs="*", default=list(BLOCKS), choices=list(BLOCKS))
    parser.add_argument(
        "--what", nargs="+", default=list(OF), choices=list(OF), help="what goes, of those trained back"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 400, 1500])
    parser.add_argument("--images", type=int, nargs="*", default=[], help="fewer images, for the least of the steps")
    parser.add_argument("--only-steps", action="store_true", help="ways to choose stay as measured")
    parser.add_argument("--count", default="", metavar="CPU", help="count instructions on this emulated processor")
    options = parser.parse_args()
    file = RESULTS / "pruned_cnn.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    kept = [{"commit": lines[0]["host"].get("commit"), **line} for line in lines[1:]]
    samples = {name: [one for one in kept if one["model"] == name] for name in BLOCKS}
    for name in options.models:
        runs = [(what, steps, 1000) for what in options.what for steps in sorted(options.steps)]
        runs += [(what, min(options.steps), count) for what in options.what for count in sorted(options.images)]
        old = [one for one in samples[name] if one["what"] != "float" and _run(one) not in runs]
        again = old if options.only_steps else []
        samples[name] = again
        for sample in measure(options.data, name, runs, others=not options.only_steps, cpu=options.count):
            samples[name].append(sample)
            print(json.dumps({key: value for key, value in sample.items() if key not in ("kept", "curve")}), flush=True)
        save("pruned_cnn", in_order([one for found in samples.values() for one in found]))
    print(report(in_order([one for found in samples.values() for one in found])))


if __name__ == "__main__":
    main()
