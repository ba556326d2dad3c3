"""The kinds of models that apps ship, each as what a user would name: a tiny checkpoint, a function, an ONNX file.

A checkpoint has random weights and is written once a process; what a door makes of it is kept as long.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import foreign_models
import transformers_models
from torch.nn import Module

from edgepress.exporter.doors.kinds import Options, find_door
from edgepress.exporter.doors.traced import Traced


@dataclass(frozen=True)
class Shape:
    """What ``door`` opens it, what its ``task`` is then, and its ``family``; ``made`` writes it and says its name."""

    family: str
    door: str
    task: str
    made: Callable[[Path], str]


def _checkpoint(family: str, task: str, name: str, **more: Any) -> Shape:
    return Shape(family, "checkpoint", task, lambda folder: str(transformers_models.saved(name, folder, **more)))


def _towers(name: str) -> Shape:
    """Of one layer each: a trace's time is that of its layers."""
    _, config = transformers_models.MODELS[name]
    one = {key: {**config[key], "num_hidden_layers": 1} for key in ("text_config", "vision_config")}
    return _checkpoint("two towers", "zero-shot-image-classification", name, **one)


def _function(family: str, task: str, name: str) -> Shape:
    return Shape(family, "torch-module", task, lambda _: f"torch_shapes:{name}")


def _file(family: str, name: str) -> Shape:
    def made(folder: Path) -> str:
        folder.mkdir()
        return str(foreign_models.save(foreign_models.MODELS[name](), folder / f"{name}.onnx"))

    return Shape(family, "onnx-file", "tensors", made)


SHAPES: dict[str, Shape] = {
    "bert": _checkpoint("text encoders", "fill-mask", "BertForMaskedLM", num_hidden_layers=1),
    "modernbert": _checkpoint("text encoders", "fill-mask", "ModernBertForMaskedLM"),
    "vit": _checkpoint("vision transformers", "image-classification", "ViTForImageClassification"),
    "dinov2": _checkpoint("vision transformers", "image-feature-extraction", "Dinov2Model", num_hidden_layers=1),
    "convnext": _checkpoint("convolutions", "image-classification", "ConvNextForImageClassification"),
    "detr": _checkpoint("detectors", "object-detection", "DetrForObjectDetection", encoder_layers=1, decoder_layers=1),
    "yolos": _checkpoint("detectors", "object-detection", "YolosForObjectDetection", num_hidden_layers=1),
    "clip": _towers("CLIPModel"),
    "siglip": _towers("SiglipModel"),
    "wav2vec2": _checkpoint("speech encoders", "automatic-speech-recognition", "Wav2Vec2ForCTC"),
    "unet": _function("U-Nets", "semantic-segmentation", "unet"),
    "lstm": _function("recurrent", "tensors", "lstm"),
    "gru": _function("recurrent", "tensors", "gru"),
    "two inputs": _function("several inputs", "tensors", "two_inputs"),
    "an LSTM in a file": _file("files", "lstm"),
    "branches and loops": _file("files", "branches"),
}
FIRSTS = {shape.family: name for name, shape in reversed(SHAPES.items())}
"""The first shape of each family: what stands for it where a test is dear."""


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="edgepress-shapes-")


@cache
def reference(name: str) -> str:
    """What a user would name."""
    return SHAPES[name].made(Path(_home().name) / name.replace(" ", "-"))


@cache
def traced(name: str) -> Traced:
    """What the door makes of it, with no word of its task."""
    folder = Path(_home().name) / f"{name.replace(' ', '-')}-graph"
    folder.mkdir()
    door = find_door(reference(name))
    assert door is not None
    return door.open(reference(name), Options(), folder)


def original(name: str) -> Module:
    """The module that a checkpoint or a function stands for, read again by no code of ours."""
    import torch_shapes
    import transformers

    if SHAPES[name].door == "torch-module":
        module: Module = getattr(torch_shapes, reference(name).partition(":")[2])()["module"]
        return module
    config = transformers.AutoConfig.from_pretrained(reference(name))
    return getattr(transformers, config.architectures[0]).from_pretrained(reference(name)).eval()  # type: ignore[no-any-return]
