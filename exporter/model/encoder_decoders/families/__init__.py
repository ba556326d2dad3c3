"""The encoder-decoders that can be exported: one file for each ``model_type``, found by its name.

A file ends in ``FAMILY = Family(model_type=…, task=…, read=…)``. Adding one is adding its file; nothing else names it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.model.encoder_decoders.description import EncoderDecoder
from edgepress.exporter.model.weights import check_tensors
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.modules import modules_in


@dataclass(frozen=True)
class Family:
    """A kind of encoder-decoder: how a checkpoint of it becomes an :class:`EncoderDecoder`.

    ``ignored_tensors`` are regular expressions (full match) for tensors that are no parameters: second copies of an
    embedding that is shared, and buffers. ``inner`` is what names of tensors begin with, but those of the head; a
    checkpoint that was saved without a head (BartModel) has them without that.
    """

    model_type: str
    task: str
    read: Callable[[Config, Checkpoint], EncoderDecoder]
    ignored_tensors: tuple[str, ...] = ()
    inner: str = "model."


def model_types() -> list[str]:
    """Every family there is a file for, sorted."""
    return sorted(module.name for module in modules_in(__path__) if not module.name.startswith("_"))


def family(model_type: str) -> Family:
    """The family named ``model_type``, which is one of :func:`model_types`; its file is imported now."""
    found = importlib.import_module(f"{__name__}.{model_type}").FAMILY
    assert isinstance(found, Family)
    return found


def open_encoder_decoder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, one without a head as the same with one.

    Raises:
        InputError: as :meth:`Checkpoint.open`.

    """
    checkpoint = Checkpoint.open(folder, of=model_types())
    model_type = str(checkpoint.config.get("model_type"))
    inner = family(model_type).inner if model_type in model_types() else ""
    if any(name.startswith(inner) for name in checkpoint.tensors):
        return checkpoint
    return checkpoint.inside(inner)


def read_encoder_decoder(checkpoint: Checkpoint) -> tuple[EncoderDecoder, tuple[str, ...]]:
    """Describe the checkpoint's model, and what of its config was passed over, a sentence each.

    Raises:
        InputError: a value of the config is not implemented, or config and tensors do not belong together.

    """
    model_type = checkpoint.config.get("model_type")
    if model_type not in model_types():
        raise InputError(f"{checkpoint.where}: model_type = {model_type!r}; known: {', '.join(model_types())}")
    kind = family(str(model_type))
    config = Config(checkpoint.config, checkpoint.where)
    config.significant = ()
    config.without_effect("is_encoder_decoder", "encoder_layerdrop", "decoder_layerdrop", "num_hidden_layers")
    found = kind.read(config, checkpoint)
    config.finish()
    stored = []
    for weight in found.weights():
        parts = tuple(part for part in weight.parts if part.tensor not in found.made)
        if parts:
            rows = sum(part.stop - part.start for part in parts)
            stored.append(replace(weight, parts=parts, shape=(rows, *weight.shape[1:])))
    check_tensors(checkpoint, stored, ignored=(*kind.ignored_tensors, *map(_exactly, found.made)))
    return found, tuple(config.notes)


def _exactly(name: str) -> str:
    return name.replace(".", r"\.")
