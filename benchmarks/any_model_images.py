"""CIFAR-10's ResNet-20 and MobileNetV2 for any_model.py: both start from one float ONNX file.

ResNet-20 is scored by top-1 on 2,000 test images, MobileNetV2, whose labels are others, by how often its first class is
the float model's, on 100 of them enlarged. Ranges come from other images.
"""

from argparse import Namespace
from functools import partial
from pathlib import Path

import any_model_peers
import numpy as np
from any_integers import DATA
from any_model_subject import Answer, Array, Form, Subject, bundle_files, export, quantized
from mobilenet import build_mobilenet
from mobilenet_repair import enlarged
from resnet import build_resnet, normalize

from edgepress.runtime import load
from edgepress.sessions import open_on_cpu, session_options

WEIGHTS = {
    "resnet": DATA / "models" / "resnet_cifar10" / "resnet20.safetensors",
    "mobilenet": DATA / "models" / "mobilenet_v2" / "mobilenet_v2_1.0_224_fp32_folded.safetensors",
}
RECIPES = ("fp32", "int8", "int4", "int8-static")
SEEN = 32  # images that static ranges come from
PIECE = 16  # images that are scored at a time


def subjects(options: Namespace) -> list[Subject]:
    """Both models, with the forms of tools that ``options`` names."""
    made = {name: (partial(forms, name, options), partial(batches, name)) for name in WEIGHTS}
    return [
        Subject("ResNet-20 (0.27 M weights)", *made["resnet"], top1),
        Subject("MobileNetV2 (3.5 M weights)", *made["mobilenet"], agreement),
    ]


def images(model: str, split: str, count: int) -> Array:
    """Images as a model takes them, (count, 3, height, width), spread over a split's classes."""
    stored = np.load(DATA / "vision" / f"cifar10_{split}.npz")["images"]
    some = stored[:: len(stored) // count][:count]
    return normalize(some) if model == "resnet" else enlarged(some, crops=False, seed=0)


def forms(model: str, options: Namespace, work: Path) -> list[Form]:
    """Ours by recipe, onnxruntime's own by each of its ways, other tools'."""
    file, seen, made = work / f"{model}.onnx", work / "seen.npz", []
    if model == "resnet":
        build_resnet(WEIGHTS[model], file, batch="n")
    else:
        build_mobilenet(WEIGHTS[model], file)
    np.savez(seen, images=images(model, "calibration1000", SEEN)[:, None])
    for recipe in RECIPES:
        looks = ("--calibration", seen) if recipe == "int8-static" else ()
        cost = export(file, recipe, work / recipe, *looks)
        made.append(Form("edgepress", recipe, bundle_files(work / recipe), partial(ours, work / recipe), cost))
    made.append(Form("onnxruntime", "the float file", [file], partial(peers, file)))
    for how in ("dynamic", "static", "qnn"):
        out = work / f"{how}.onnx"
        cost = quantized(how, file, out, *([] if how == "dynamic" else [seen]))
        made.append(Form("onnxruntime", f"int8 {how}", [out], partial(peers, out), cost))
    if options.olive:
        out = work / "olive.onnx"
        made.append(any_model_peers.olive(options.olive, "static", file, out, partial(peers, out), seen))
    return made + any_model_peers.apart(
        options, model, WEIGHTS[model], work, sizes=f"1,{PIECE}", encode=lambda x: {"images": x}, samples=seen
    )


def ours(bundle: Path, threads: int) -> Answer:
    """A bundle of ours, opened."""
    model = load(bundle, threads=threads)
    return lambda x: model.run({"images": x})["logits"]  # type: ignore[attr-defined] # a graph's, by its task


def peers(file: Path, threads: int) -> Answer:
    """A file as onnxruntime runs it."""
    session = open_on_cpu(file, session_options(threads))
    return lambda x: np.asarray(session.run(None, {"images": x})[0])


def batches(model: str) -> dict[str, list[Array]]:
    """Single images, and batches."""
    x = images(model, "test2000", 16)
    return {"one": list(x[:4, None]), "16 at once": [x]}


def _logits(answer: Answer, x: Array) -> Array:
    return np.concatenate([answer(x[at : at + PIECE]) for at in range(0, len(x), PIECE)])


def top1(answer: Answer, reference: Array | None) -> tuple[dict[str, float], Array]:
    """The share of right classes, and of classes that are the float32 bundle's."""
    found = _logits(answer, images("resnet", "test2000", 2000)).argmax(1)
    labels = np.load(DATA / "vision" / "cifar10_test2000.npz")["labels"]
    same = 1.0 if reference is None else float((found == reference).mean())
    return {"top-1": float((found == labels).mean()), "as float's": same}, found


def agreement(answer: Answer, reference: Array | None) -> tuple[dict[str, float], Array]:
    """The share of first classes that are the float32 bundle's."""
    found = _logits(answer, images("mobilenet", "test2000", 100)).argmax(1)
    return {"as float's": 1.0 if reference is None else float((found == reference).mean())}, found
