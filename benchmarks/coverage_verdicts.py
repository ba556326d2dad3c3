"""The verdict on one class of transformers for one task: made small, exported as users do, held against itself."""

import contextlib
import copy
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import ROOT
from tiny_configs import draw, tiny_config

from edgepress.errors import CheckFailed, InputError
from edgepress.exporter import export
from edgepress.exporter.decide.encoder_decoder import is_encoder_decoder
from edgepress.exporter.doors.comparing.agreement import TOLERANCE
from edgepress.exporter.doors.comparing.queries import in_order
from edgepress.exporter.doors.heads import Head
from edgepress.exporter.doors.kinds import Options, find_door
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.export import export_traced
from edgepress.sessions import open_on_cpu

sys.path.insert(0, str(ROOT / "tests"))
import encoder_decoders
from tiny_models import save_tokenizer
from transformers_models import BACKBONE, MODELS, config_of

MOST = 60_000_000  # weights of a model that is still tried
FEEDS = 3
SEQUENCES = (  # tasks of encoder-decoders, which no head of a door has
    Head(name="text2text-generation", loaders=("AutoModelForSeq2SeqLM",), outputs=()),
    Head(name="speech-to-text", loaders=("AutoModelForSpeechSeq2Seq",), outputs=()),
)
_PACKAGES = f"{Path(transformers.__file__).parent.parent}/"
_NOT_RUN = " cannot be called with "

Verdict = dict[str, Any]


def configs(name: str, model_type: str, layers: int) -> Iterator[transformers.PreTrainedConfig]:
    """The default config made small, then with few layers, then as it is: some sizes fit together in one way only."""
    if name in MODELS and MODELS[name][0] == model_type:
        yield config_of(name)
    elif sibling := next((other for other, (kind, _) in MODELS.items() if kind == model_type), None):
        yield config_of(sibling)
    makers = (
        lambda: _with_small_images(tiny_config(model_type, layers)),
        lambda: tiny_config(model_type, layers),
        lambda: _with_few_layers(transformers.CONFIG_MAPPING[model_type](), layers),
        transformers.CONFIG_MAPPING[model_type],
    )
    for make in makers:
        with contextlib.suppress(Exception):  # whatever a config's class refuses
            yield make()


def _with_few_layers(config: transformers.PreTrainedConfig, layers: int) -> transformers.PreTrainedConfig:
    for key in ("num_hidden_layers", "encoder_layers", "decoder_layers"):
        if isinstance(getattr(config, key, None), int):
            setattr(config, key, layers)
    return config


def _with_small_images(config: transformers.PreTrainedConfig) -> transformers.PreTrainedConfig:
    """Images of four patches a side, or of 64 pixels; one block a stage; of timm's networks a small ResNet.

    Decoders begin with the first token and texts are padded with it, where a config's class leaves that to checkpoints.
    """
    for one in (config, config.get_text_config()):
        if getattr(one, "pad_token_id", None) is None:
            one.pad_token_id = 0  # without one, classes of decoders take one text at a time
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0
    for part in [*vars(config).values(), config]:
        if not isinstance(part, transformers.PreTrainedConfig):
            continue
        if isinstance(getattr(part, "image_size", None), int):
            patch = getattr(part, "patch_size", None)
            part.image_size = 4 * patch if isinstance(patch, int) and patch > 8 else 64
        if isinstance(getattr(part, "depths", None), list | tuple):
            part.depths = [1] * len(part.depths)
    if getattr(getattr(config, "backbone_config", None), "model_type", "") == "timm_backbone":
        config.backbone_config = transformers.ResNetConfig(**BACKBONE)
    return config


def try_class(head: Head, model_type: str, name: str, folder: Path, layers: int) -> Verdict:
    """The verdict on one class: on the first of its configs with which transformers runs it."""
    first: Verdict | None = None
    if head in SEQUENCES and model_type in encoder_decoders.MODELS:
        return try_checkpoint(head, encoder_decoders.save(model_type, folder / "checkpoint"), folder)
    for number, config in enumerate(configs(name, model_type, layers)):
        inner = folder / str(number)
        inner.mkdir()
        found = try_config(head, config, name, inner)
        if found["verdict"] != "not made" and _NOT_RUN not in found["reason"]:
            return found
        first = found if first is None else first
    return {"verdict": "not made", "reason": "its default config cannot be made" if first is None else first["reason"]}


def try_config(head: Head, config: transformers.PreTrainedConfig, name: str, folder: Path) -> Verdict:
    """The verdict on one class with this config."""
    checkpoint = folder / "checkpoint"
    try:
        torch.manual_seed(1)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in _class(name)(copy.deepcopy(config)).parameters())
        if size > MOST:
            return {"verdict": "not made", "reason": f"its default config cannot be made small: {size:,} weights"}
        model = _class(name)(config).eval()
        draw_all(model)
        model.save_pretrained(checkpoint)
        if head in SEQUENCES or is_encoder_decoder(checkpoint):
            save_tokenizer(checkpoint)
    except Exception as error:  # whatever a library raises is a verdict
        return {"verdict": "not made", "reason": _said(error)}
    return try_checkpoint(head, checkpoint, folder)


def try_checkpoint(head: Head, checkpoint: Path, folder: Path) -> Verdict:
    """The verdict on a checkpoint, through the door that `edgepress export` takes for it."""
    bundle, work = folder / "bundle", folder / "work"
    work.mkdir()
    try:
        door = None if is_encoder_decoder(checkpoint) else find_door(str(checkpoint))
        if door is None:
            manifest = export(checkpoint, out=bundle, recipe="fp32", target="x86-cpu", threads=1)
            if manifest.task is None:
                return {"verdict": "refused", "reason": "its language model alone is exported, which takes text"}
            worst = encoder_decoders.difference(checkpoint, bundle)
        else:
            traced = door.open(str(checkpoint), Options(head.name), work)
            export_traced(traced, out=bundle, recipe="fp32", target="x86-cpu", threads=1)
            worst = difference(traced, bundle)
    except (InputError, CheckFailed) as error:  # a door that finds its graph to be another writes no bundle
        return {"verdict": "refused", "reason": _said(error)}
    except Exception as error:  # whatever a library raises is a verdict
        return {"verdict": "wrong", "reason": _said(error)}
    right = worst <= TOLERANCE
    reason = "" if right else f"outputs differ by {worst:.1e} of the largest"
    return {"verdict": "right" if right else "wrong", "reason": reason, "difference": worst}


def difference(traced: Traced, bundle: Path) -> float:
    """The largest difference of an output on inputs of several sizes, as a share of its largest value.

    A detector's queries may come in another order, as export has it.
    """
    assert traced.compute is not None
    session = open_on_cpu(bundle / "model.onnx")
    names, worst = [edge.name for edge in traced.task.outputs], 0.0
    for feed in islice(traced.examples(7), FEEDS):
        expected = traced.compute(feed)
        run = dict(zip(names, session.run(names, dict(feed)), strict=True))
        found, _ = in_order(run, expected, traced.task.name, TOLERANCE)
        for name in names:
            largest = max(float(np.abs(expected[name]).max(initial=0)), 1e-6)
            worst = max(worst, float(np.abs(expected[name] - found[name]).max(initial=0)) / largest)
    return worst


def draw_all(model: torch.nn.Module) -> None:
    """Random weights as :func:`tiny_configs.draw`; convolutions keep their input's scale, norms have statistics."""
    draw(model, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 2 and parameter.numel():
                parameter.normal_(0.0, 1.2 * parameter[0].numel() ** -0.5)
            if "bbox" in name:  # boxes of sizes that there are: kernels' sigmoids are off by 1e-8, and 0 below -18
                parameter.mul_(0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.2)


def _class(name: str) -> Any:
    return getattr(transformers, name)


def _said(error: BaseException) -> str:
    """The first line of an error, without where packages are on this machine."""
    text = str(error).strip().partition("\n")[0].replace(_PACKAGES, "") or type(error).__name__
    return text if isinstance(error, InputError | CheckFailed) else f"{type(error).__name__}: {text[:200]}"
