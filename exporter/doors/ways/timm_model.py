"""A model of timm: a folder or repository in its form on the hub, or ``timm:NAME`` with random weights.

timm's form is ``config.json`` with the architecture, the number of classes and ``pretrained_cfg``, which says how
images become inputs, and ``model.safetensors``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.disk.files import sha256_file
from edgepress.errors import InputError
from edgepress.exporter.doors.bounds import bounded
from edgepress.exporter.doors.comparing.agreement import check_agreement
from edgepress.exporter.doors.kinds import Door, Options
from edgepress.exporter.doors.processing.read import Processed, read_processing
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.doors.tracing import Tracing, feeds, trace
from edgepress.exporter.source.hub import find_whole, read_config
from edgepress.exporter.source.layout import CONFIG, SINGLE
from edgepress.schema import read_config_object
from edgepress.tasks.task import Axis

if TYPE_CHECKING:
    import torch

_RANDOM = "timm:"
_TASK = "image-classification"
_FEATURES = "image-feature-extraction"
_COPY = "copy it again from where the model came from"


def recognizes(reference: str) -> bool:
    """Whether it is ``timm:NAME``, or a folder or repository whose config is timm's: it names an architecture."""
    if reference.startswith(_RANDOM):
        return True
    config = read_config(reference, None)
    return config is not None and "model_type" not in config and isinstance(config.get("architecture"), str)


def open_model(reference: str, options: Options, workspace: Path) -> Traced:
    """The classifier, or with the task image-feature-extraction what it makes of an image before its classes.

    Raises:
        InputError: timm is not installed or does not know the model, a file is missing or damaged, or the model cannot
            be written as ONNX.
        CheckFailed: the graph does not compute what the model computes.

    """
    task = options.task or _TASK
    if task not in (_TASK, _FEATURES):
        raise InputError(f"{reference} is a model of timm, which are for {_TASK} or {_FEATURES}; {task} is neither")
    folder, notes = None, ["its weights are random, as timm:NAME says"]
    config: Mapping[str, object] = {"architecture": reference.removeprefix(_RANDOM)}
    if not reference.startswith(_RANDOM):
        folder, origin = find_whole(reference, options.revision)
        config = read_config_object(folder / CONFIG, _COPY)
        notes = [] if origin is None else [f"{origin.repository} at commit {origin.commit}"]
    elif options.revision is not None:
        raise InputError(f"--revision is of a model on the hub, and {reference} has random weights; leave it out")
    module = _load(reference, folder, config, task)
    image = _image(reference, module, config)
    tracing = Tracing(
        module=module,
        inputs={_argument(module): image},
        where=reference,
        axes={_argument(module): {0: Axis("batch")}},
        outputs=lambda result: {"logits" if task == _TASK else "image_embeds": _only(reference, result)},
    )
    graph = trace(tracing, task, workspace)
    edges, examples = bounded(graph, tracing.compute, feeds(tracing), reference)
    processed = Processed(edges) if folder is None else read_processing(folder, edges)
    traced = Traced(
        file=graph.file,
        model_type=f"timm {config['architecture']}",
        task=processed.task,
        examples=examples,
        compute=tracing.compute,
        exact=tracing.exact,
        source={} if folder is None else {name: sha256_file(folder / name) for name in (CONFIG, SINGLE)},
        notes=(*notes, *processed.notes),
    )
    return check_agreement(traced).of(traced)


def _load(reference: str, folder: Path | None, config: Mapping[str, object], task: str) -> torch.nn.Module:
    """The model with its weights, or random ones where there is no folder."""
    try:
        timm = import_timm()
    except Exception as error:  # a torchvision of another version than torch fails in its own way
        raise InputError(
            f"{reference} is a model of timm, which cannot be imported ({error}): pip install 'edgepress[timm]', with "
            "torch and torchvision of the same release"
        ) from error
    classes, arguments = config.get("num_classes"), config.get("model_args") or {}
    made = {"num_classes": int(classes)} if isinstance(classes, int) else {}
    try:
        module: torch.nn.Module = timm.create_model(
            str(config["architecture"]),
            pretrained=False,
            **{**made, **(arguments if isinstance(arguments, dict) else {})},
        )
    except Exception as error:  # what timm raises on names and arguments that it does not know is of any kind
        raise InputError(
            f"{reference}: timm {timm.__version__} does not make {config['architecture']!r}: {error}; check the name, "
            "or install a newer timm"
        ) from error
    if folder is not None:
        _read_weights(folder, module)
    if task == _FEATURES:
        headless: Any = module
        headless.reset_classifier(0)
    return module.eval()


def import_timm() -> Any:
    """timm, also beside a torch for CPUs, whose build PyPI's torchvision is not of.

    That torchvision does not find the libraries that its compiled half needs, and then ends its own import where it
    describes two operators of that half (in torchvision 0.28 and 0.29). Models of timm use neither, so they are
    declared, without anything that would compute them, and it is imported once more.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]  # what was imported before it ended
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("timm")


def _read_weights(folder: Path, module: torch.nn.Module) -> None:
    from safetensors.torch import load_file

    if not (folder / SINGLE).is_file():
        raise InputError(
            f"{folder} has no {SINGLE}; weights in other formats run code when they are read: save them with "
            "safetensors.torch.save_file, in a place that you trust"
        )
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / SINGLE).items()})
    except Exception as error:  # torch's errors name every tensor that is missing or has another shape
        said = " ".join(str(error).split())
        raise InputError(
            f"{folder}: {SINGLE} is not of the model that its config names: {said[:300]}; {_COPY}"
        ) from error


def _image(reference: str, module: Any, config: Mapping[str, object]) -> torch.Tensor:
    """An image of the size that the config says, else that of the architecture: (2, channels, height, width)."""
    import torch

    said = config.get("pretrained_cfg")
    size = said.get("input_size") if isinstance(said, dict) else None
    size = size or module.default_cfg.get("input_size") or (3, 224, 224)
    if (
        not isinstance(size, list | tuple)
        or len(size) != 3
        or not all(isinstance(one, int) and one > 0 for one in size)
    ):
        raise InputError(f"{reference}: input_size is {size!r}, no channels, height and width; correct it in {CONFIG}")
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


def _argument(module: torch.nn.Module) -> str:
    """What the model's ``forward`` calls an image."""
    import inspect

    return next(iter(inspect.signature(module.forward).parameters))


def _only(reference: str, result: object) -> torch.Tensor:
    import torch

    if not isinstance(result, torch.Tensor):
        raise InputError(f"{reference} gives {type(result).__name__} and no scores of classes, which is not known here")
    return result


DOOR = Door("timm", "a model of timm, in its form on the hub or by name", recognizes, open_model)
