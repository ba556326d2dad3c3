"""What do equalization, learned ranges, learned rounding, bias correction and training repair, method by method?

- MobileNetV2 (3.5 M weights, real): how often its first class is the float model's, and SQNR of its logits, on test
  images of CIFAR-10 and random crops of them, enlarged to 224 pixels. Its labels are others, so agreement is measured,
  not accuracy.
- ResNet-20 and ResNet-56 (0.27 and 0.85 M weights): top-1 on CIFAR-10 test images, and agreement with float.

Each figure is of the file that ships, run by onnxruntime. Calibration images are others than those that are measured.

    python benchmarks/mobilenet_repair.py [--data ../shared/data] [--parts mobilenet resnet20 resnet56] [--images 200]
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
from common import RESULTS, ROOT, WORK, save, table
from mobilenet import SIZE, build_mobilenet
from numpy.typing import NDArray
from resnet import build_resnet, normalize

from edgepress.exporter.graph.qdq import WIDTHS, Rounded, prepare, quantize, write_models
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.qdq.roles import channel_axis
from edgepress.exporter.recipe.recipe import Activations, OptionValue, Recipe, Storage
from edgepress.sessions import open_on_cpu

if TYPE_CHECKING:
    from edgepress.exporter.learn.graphs.run import LearnedGraph

Sample = dict[str, Any]
Array = NDArray[Any]
BATCH = {"mobilenet": 2, "resnet20": 20, "resnet56": 20}
Options = dict[str, dict[str, OptionValue]]
TRAINED: dict[str, OptionValue] = {
    "batch": 40,
    "features": 1.0,
    "features_at": 9,
    "flip": True,
    "shift": 3,
    "mix": True,
}


@dataclass(frozen=True)
class Form:
    """One row: how it is called, at which widths, and by what recipe."""

    name: str
    widths: str
    ranges: str = "minmax"
    method: str = "rtn"
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    options: Options = field(default_factory=dict)
    per_tensor: bool = False

    @property
    def recipe(self) -> Recipe:
        """What is asked."""
        widths = WIDTHS[self.widths]
        one = Storage(self.method, widths.weight_bits, 0)
        return Recipe(
            name=self.name,
            weights=one,
            embedding=one,
            head=one,
            before=self.before,
            after=self.after,
            options=self.options,
            activations=Activations(widths.activations, self.ranges),
        )


def forms(steps: int) -> list[Form]:
    """Those of MobileNetV2; ``steps`` a layer, and of training."""
    short: Options = {name: {"steps": steps, "batch": 2} for name in ("adaround", "learned_ranges", "qat")}
    return [
        Form("one scale a tensor", "a8w8", per_tensor=True),
        Form("one scale a tensor, equalize", "a8w8", before=("equalize",), per_tensor=True),
        Form("one scale a channel", "a8w8"),
        Form("equalize", "a8w8", before=("equalize",)),
        Form("mse ranges", "a8w8", "mse"),
        Form("bias_correction", "a8w8", after=("bias_correction",)),
        Form("learned_ranges", "a8w8", after=("learned_ranges",), options=short),
        Form("learned_ranges, bias_correction", "a8w8", after=("learned_ranges", "bias_correction"), options=short),
        Form("learned_ranges, qat", "a8w8", after=("learned_ranges", "qat"), options=short),
        Form("one scale a channel", "a16w4"),
        Form("bias_correction", "a16w4", after=("bias_correction",)),
        Form("adaround", "a16w4", method="adaround", options=short),
        Form("adaround, bias_correction", "a16w4", method="adaround", after=("bias_correction",), options=short),
    ]


def resnet_forms(steps: int) -> list[Form]:
    """Those of the residual networks."""
    short: Options = {"adaround": {"steps": steps, "batch": 2}}
    trained: Options = {"qat": TRAINED | {"steps": steps}}
    return [
        Form("one scale a channel", "a8w8"),
        Form("bias_correction", "a8w8", after=("bias_correction",)),
        Form("one scale a channel", "a16w4"),
        Form("bias_correction", "a16w4", after=("bias_correction",)),
        Form("adaround", "a16w4", method="adaround", options=short),
        Form("adaround, bias_correction", "a16w4", method="adaround", after=("bias_correction",), options=short),
        Form(
            "qat, by outputs alone",
            "a16w4",
            after=("qat",),
            options={"qat": TRAINED | {"steps": steps, "features": 0.0}},
        ),
        Form("qat", "a16w4", after=("qat",), options=trained),
        Form("adaround, qat", "a16w4", method="adaround", after=("qat",), options=short | trained),
    ]


def enlarged(images: Array, *, crops: bool, seed: int) -> Array:
    """Images (n, 32, 32, 3) uint8, or a random crop of each, as the network takes them: (n, 3, 224, 224) in [−1, 1]."""
    from PIL import Image

    random, made = np.random.default_rng(seed), []
    for image in images:
        box = (0, 0, 32, 32)
        if crops:
            size = int(random.integers(20, 32))
            x, y = (int(place) for place in random.integers(0, 32 - size, 2))
            box = (x, y, x + size, y + size)
        picture = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
        made.append((np.asarray(picture, np.float32) / 127.5 - 1).transpose(2, 0, 1))
    return np.stack(made)


def one_scale(learned: "LearnedGraph", folder: Path) -> tuple[Path, dict[str, Rounded]]:
    """The same weights with one scale for all channels of each: a float file of its own."""
    import onnx
    from onnx import numpy_helper

    source = FloatModel(learned.file)
    rounded, values = {}, {}
    for node in source.nodes:
        if len(node.input) > 1 and node.input[1] in learned.rounded:
            name, value = node.input[1], np.asarray(source.value(node.input[1]), np.float32)
            scale = np.float32(np.abs(value).max() / 127)
            values[name] = np.clip(np.rint(value / scale), -127, 127).astype(np.float32) * scale
            rounded[name] = Rounded(np.full(value.shape[channel_axis(node)], scale, np.float32), 8)
    model = onnx.load(learned.file)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    path = folder / "one_scale.onnx"
    onnx.save(model, path)
    return path, rounded


def shipped(form: Form, path: Path, feeds: Sequence[Mapping[str, Array]], loss: Any) -> tuple[Path, "LearnedGraph"]:
    """The file that ships."""
    from edgepress.exporter.learn.graphs.run import learn_graph

    folder = path.parent / form.name.replace(", ", "+").replace(" ", "_")
    widths = WIDTHS[form.widths]
    learned = learn_graph(path, feeds, form.recipe, folder=folder, widths=widths, loss=loss)
    file, rounded = (learned.file, dict(learned.rounded))
    if form.per_tensor:
        file, rounded = one_scale(learned, folder)
    target = folder / f"{form.widths}.onnx"
    write_models({target: quantize(file, learned.ranges, widths, rounded)}, target.with_suffix(".bin"))
    return target, learned


def measured(
    model: str, path: Path, name: str, x: Array, calibration: Array, *, rows: list[Form], labels: Array | None = None
) -> Iterator[Sample]:
    """Every form of one model."""
    size = BATCH[model]

    def logits(file: Path) -> Array:
        session = open_on_cpu(file)
        return np.concatenate([session.run(None, {name: x[i : i + size]})[0] for i in range(0, len(x), size)])

    feeds = [{name: calibration[i : i + size]} for i in range(0, len(calibration), size)]
    truth = logits(path)
    base: Sample = {"model": model, "images": len(x), "calibration": len(calibration)}
    yield base | {"form": "float", "widths": "float32"} | _top1(truth, labels)
    for form in rows:
        begun = time.perf_counter()
        file, learned = shipped(form, path, feeds, "kl")
        seconds, found = time.perf_counter() - begun, logits(file)
        agreement = float((found.argmax(1) == truth.argmax(1)).mean())
        noise = float(np.square(found.astype(np.float64) - truth).sum())
        sqnr = float(10 * np.log10(np.square(truth.astype(np.float64)).sum() / noise))
        sample = base | {"form": form.name, "widths": form.widths, "agreement": agreement, "sqnr_db": sqnr}
        steps = {key: value["steps"] for key, value in form.options.items()}
        yield sample | {"seconds": seconds, "notes": learned.notes, "steps": steps} | _top1(found, labels)


def _top1(logits: Array, labels: Array | None) -> Sample:
    return {} if labels is None else {"top1": float((logits.argmax(1) == labels).mean())}


def mobilenet(data: Path, images: int, calibration: int, steps: int) -> Iterator[Sample]:
    """Half of the images whole, half of them cropped at random."""
    work = WORK / "mobilenet_repair"
    work.mkdir(parents=True, exist_ok=True)
    path = work / "mobilenet.onnx"
    build_mobilenet(data / "models/mobilenet_v2/mobilenet_v2_1.0_224_fp32_folded.safetensors", path)
    test, other = (np.load(data / f"vision/cifar10_{name}.npz")["images"] for name in ("test2000", "calibration1000"))
    half = images // 2
    x = np.concatenate([enlarged(test[:half], crops=False, seed=0), enlarged(test[:half], crops=True, seed=1)])
    seen = enlarged(other[:calibration], crops=True, seed=2)
    yield from measured("mobilenet", path, "images", x, seen, rows=forms(steps))


def resnet(name: str, data: Path, images: int, calibration: int, steps: int) -> Iterator[Sample]:
    """With labels."""
    work = WORK / f"repair_{name}"
    work.mkdir(parents=True, exist_ok=True)
    build_resnet(data / f"models/resnet_cifar10/{name}.safetensors", work / "bn.onnx", batch="batch")
    prepare(work / "bn.onnx", work / "float.onnx")
    test, other = (np.load(data / f"vision/cifar10_{name}.npz") for name in ("test2000", "calibration1000"))
    x, labels = normalize(test["images"][:images]), test["labels"][:images]
    seen = normalize(other["images"][:calibration])
    rows = resnet_forms(steps)
    yield from measured(name, work / "float.onnx", "images", x, seen, rows=rows, labels=labels)


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A table of MobileNetV2, then one of the residual networks."""
    own = [s for s in samples if s["model"] == "mobilenet"]
    rows = [(s["widths"], s["form"], f"{s['agreement']:.1%}", f"{s['sqnr_db']:.1f}") for s in own if "agreement" in s]
    first = table(("widths", "recipe", "first class as float's", "SQNR, dB"), rows)
    others = [s for s in samples if s["model"] != "mobilenet"]
    rows = [
        (
            {"resnet20": "ResNet-20 (0.27 M weights)", "resnet56": "ResNet-56 (0.85 M weights)"}[s["model"]],
            s["widths"],
            s["form"],
            f"{s['top1']:.2%} of {s['images']:,}",
            f"{s['agreement']:.1%}" if "agreement" in s else "",
        )
        for s in others
    ]
    if not others:
        return first
    return first + "\n\n" + table(("model", "widths", "recipe", "top-1", "as float's"), rows)


def main() -> None:
    """Measure the parts asked for; the others stay as they were measured."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--parts", nargs="*", default=["mobilenet", "resnet20", "resnet56"])
    parser.add_argument("--images", type=int, default=200, help="of MobileNetV2")
    parser.add_argument("--calibration", type=int, default=32, help="images of MobileNetV2")
    parser.add_argument("--steps", type=int, default=40, help="of each layer, and of training")
    options = parser.parse_args()
    old = RESULTS / "mobilenet_repair.jsonl"
    lines = [json.loads(line) for line in old.read_text(encoding="utf-8").splitlines()] if old.is_file() else []
    samples: dict[str, list[Sample]] = {part: [] for part in ("mobilenet", "resnet20", "resnet56")}
    for sample in lines[1:]:
        samples[sample["model"]].append(sample)
    for part in options.parts:
        samples[part] = []
        if part == "mobilenet":
            found = mobilenet(options.data, options.images, options.calibration, options.steps)
        else:
            found = resnet(part, options.data, 2000, 200, options.steps)
        for sample in found:
            samples[part].append(sample)
            print(json.dumps(sample), flush=True)
            save("mobilenet_repair", [sample for some in samples.values() for sample in some])
    print(report([sample for some in samples.values() for sample in some]))


if __name__ == "__main__":
    main()
