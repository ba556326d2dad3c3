"""Does one bundle in integers give the same answers on every kind of processor that it is for?

ResNet-20 on CIFAR-10's test images, by recipes of static integers: the CPU of this host, Qualcomm's simulator of the
HTP (``pip install 'edgepress[qnn]'``), and emulated arm64 processors (``edgepress emulator setup``), each running the
graph that the bundle has for it. Of each: top-1, the share of images that are called what this host's CPU calls them,
and by how much the logits differ.

    python benchmarks/same_answers.py [--images 2000] [--emulated 2000] [--cpus cortex-a53 cortex-a76 neoverse-n2]

Samples are kept as they come.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
from common import ROOT, save, table
from numpy.typing import NDArray
from resnet import build_resnet, normalize

from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.targets.emulator import compare_model, setup

DATA = Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared" / "data"))
RECIPES = ("int8-static", "int8-static-a16")
CHIP = "sm8650"
CPUS = ("cortex-a53", "cortex-a76", "neoverse-n2")
CALIBRATION = 256  # training images
BATCH = 50  # images of a run on CPUs
Sample = dict[str, Any]
Floats = NDArray[np.float32]


def exported(recipe: str, folder: Path) -> Path:
    """ResNet-20's bundle for CPUs and the HTP."""
    build_resnet(DATA / "models" / "resnet_cifar10" / "resnet20.safetensors", folder / "m.onnx", batch="batch")
    training = np.load(DATA / "vision" / "cifar10_calibration1000.npz")["images"][:CALIBRATION]
    np.savez(folder / "images.npz", images=normalize(training)[:, None])
    targets = ["x86-cpu", "arm64-cpu", "qnn-htp"]
    calibration = [folder / "images.npz"]
    export(folder / "m.onnx", out=folder / recipe, recipe=recipe, target=targets, calibration=calibration)
    return folder / recipe


def logits_of(model: TaskModel, images: Floats) -> Floats:
    """(images, classes)."""
    pieces = [model.run_rows({"images": images[at : at + BATCH]})["logits"] for at in range(0, len(images), BATCH)]
    return np.concatenate(pieces).astype(np.float32)


def measure(recipe: str, asked: argparse.Namespace) -> Iterator[Sample]:
    """One sample for each processor, this host's CPU first."""
    test = np.load(DATA / "vision" / "cifar10_test2000.npz")
    images, labels = normalize(test["images"][: asked.images]), test["labels"]
    with TemporaryDirectory(prefix="same-answers-") as name:
        bundle = exported(recipe, Path(name))
        here = logits_of(load(bundle, on="cpu", prepared=False), images)

        def told(on: str, seen: Floats) -> Sample:
            count = len(seen)
            truth, answers = here[:count], seen.argmax(1)
            return {
                "model": "resnet20",
                "recipe": recipe,
                "on": on,
                "images": count,
                "top1": float((answers == labels[:count]).mean()),
                "same": float((answers == truth.argmax(1)).mean()),
                "largest": float(np.abs(seen - truth).max()),
                "range": float(truth.max() - truth.min()),
                "bit_equal": bool((seen == truth).all()),
            }

        yield told("this host's CPU", here)
        emulator, count = setup(), asked.wide if recipe.endswith("a16") else asked.emulated
        for cpu in asked.cpus:
            feed = {"images": images[:count]}
            [found] = compare_model(emulator, bundle / "model.onnx", feed, [cpu], batch=min(BATCH, count))
            yield told(cpu, np.asarray(found.outputs["logits"], np.float32))
        yield told(f"HTP of {CHIP}, simulated", logits_of(load(bundle, on="qnn-htp", soc=CHIP), images))


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each recipe and processor."""
    rows = [
        [
            one["model"],
            one["recipe"],
            one["on"],
            f"{one['images']:,}",
            f"{one['top1']:.2%}",
            f"{one['same']:.2%}",
            "none" if one["bit_equal"] else f"{one['largest']:.3f} of {one['range']:.0f}",
        ]
        for one in samples
    ]
    return table(["model", "recipe", "on", "images", "top-1", "same answers", "largest difference of logits"], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--emulated", type=int, default=2000, help="images on emulated processors")
    parser.add_argument(
        "--wide",
        type=int,
        default=50,
        help="of those with 16-bit activations, which are slow",
    )
    parser.add_argument("--cpus", nargs="+", default=CPUS)
    asked = parser.parse_args()
    samples: list[Sample] = []
    for recipe in asked.recipes:
        for sample in measure(recipe, asked):
            samples.append(sample)
            save("same_answers", samples)
            print(f"{recipe} on {sample['on']}: {sample['same']:.2%} the same", flush=True)
    print(report(samples))


if __name__ == "__main__":
    main()
