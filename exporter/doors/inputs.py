"""Example inputs of a transformers model, and feeds like them: tokens, pixels, sound, with what goes with each.

Sizes are those that the model's files give: a vocabulary, positions, the size to which a processor brings images.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.doors.feeds import Feeds
from edgepress.exporter.doors.heads import Head, find_head
from edgepress.tasks.task import Axis

Array = NDArray[Any]

_COMPANIONS = {"input_ids": ("attention_mask", "token_type_ids", "bbox")}  # of a main input, where forward takes them
_TOKENS, _FRAMES, _CHOICES, _PIXELS = 9, 64, 3, 224
_LENGTH = 512  # tokens of texts where code fixes how many: what most encoders take
_SEQUENCE = "sequence"
_CHARACTERS = 0x110000  # of Unicode
_MAIN = ("input_ids", "pixel_values")
_BOX = 1000  # pages are that wide and high, whatever their pixels
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
BY_HAND = "write a function that loads it with example inputs and name that as package.module:function"
"""The remedy where a model takes, or gives, what is not known here."""


@dataclass(frozen=True)
class Given:
    """An input: the shape of an example, its free axes, and how one of another shape is drawn."""

    shape: tuple[int, ...]
    axes: Mapping[int, Axis]
    draw: Callable[[tuple[int, ...], np.random.Generator], Array]

    def alone(self) -> Given:
        """The same input with one example in a batch, and as many in each call."""
        rest = {index: axis for index, axis in self.axes.items() if index}
        return Given((1, *self.shape[1:]) if 0 in self.axes else self.shape, rest, self.draw)

    def texts_of(self, tokens: int) -> Given:
        """The same input with texts of so many tokens alone."""
        fixed = [index for index, axis in self.axes.items() if axis.name == _SEQUENCE]
        shape = tuple(tokens if index in fixed else size for index, size in enumerate(self.shape))
        return Given(shape, {index: axis for index, axis in self.axes.items() if index not in fixed}, self.draw)


def given_inputs(head: Head, module: Any, folder: Path) -> dict[str, Given]:
    """The inputs of a model for a task: of those that its ``forward`` takes, what the task needs, and what it cannot do
    without.

    Raises:
        InputError: it takes something that is not known here.

    """
    taken = inspect.signature(module.forward).parameters
    main = main_input(module)
    wanted = head.inputs or (main, *_COMPANIONS.get(main, ()))
    names = [name for name in wanted if name in taken]
    names += [name for name, one in taken.items() if name not in names and _is_needed(one)]
    text = module.config.get_text_config()
    if "token_type_ids" in names and (getattr(text, "type_vocab_size", None) or 0) < 2:
        names.remove("token_type_ids")
    makers: dict[str, Callable[[Head, Any, Path], Given]] = {
        "input_ids": _tokens,
        "attention_mask": _mask,
        "token_type_ids": _types,
        "bbox": _boxes,
        "pixel_values": _pixels,
        "pixel_values_videos": _videos,
        "input_values": _sound,
        "input_features": _features,
    }
    unknown = [name for name in names or [main] if name not in makers]
    if unknown:
        raise InputError(
            f"{folder}: {type(module).__name__} takes {', '.join(unknown)}, of which no example is known here; "
            f"{BY_HAND}"
        )
    return {name: makers[name](head, module, folder) for name in names}


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether a call must give it: it has a name, and no value of its own."""
    named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return named and parameter.default is inspect.Parameter.empty


def main_input(module: Any) -> str:
    """What a model looks at: its main input, or what it takes as one where that has a name for anything (Perceiver).

    Of several (OneFormer) all names, with commas between them.
    """
    name = module.main_input_name
    name = name if isinstance(name, str) else ", ".join(name)
    taken = inspect.signature(module.forward).parameters
    return next((one for one in _MAIN if one in taken), name) if name == "inputs" else name


def ways(inputs: Mapping[str, Given]) -> Iterator[tuple[Mapping[str, Given], str]]:
    """The inputs with their axes free, then less and less so for code that fixes them, each with what is said of it."""
    yield inputs, ""
    axes = [axis for given in inputs.values() for axis in given.axes.values()]
    sequence = next((axis for axis in axes if axis.name == _SEQUENCE), None)
    alone = {name: given.alone() for name, given in inputs.items()}
    one = "it takes one at a time, as its code fixes how many there are"
    if sequence is None:
        yield alone, one
        return
    tokens = min(_LENGTH, sequence.most or _LENGTH)
    length = (
        f"it takes texts of {tokens} tokens, to which shorter ones are padded, as its code fixes how many there are"
    )
    yield {name: given.texts_of(tokens) for name, given in inputs.items()}, length
    yield alone, one
    yield {name: given.texts_of(tokens) for name, given in alone.items()}, f"{length}; and one at a time"


def feeds_of(inputs: Mapping[str, Given]) -> Feeds:
    """Feeds of any of these inputs' sizes."""
    return Feeds(
        shapes={name: given.shape for name, given in inputs.items()},
        axes={name: given.axes for name, given in inputs.items()},
        draw=lambda name, shape, generator: inputs[name].draw(shape, generator),
    )


def _text(head: Head, module: Any) -> tuple[tuple[int, ...], dict[int, Axis]]:
    """The shape of texts: (batch, sequence); a choice of several has an axis of its own."""
    sequence = Axis(_SEQUENCE, most=_positions(module))
    batch = Axis("texts" if head.inputs and "pixel_values" in head.inputs and _two_towers(module) else "batch")
    length = min(_TOKENS, sequence.most or _TOKENS)
    if head.name == "multiple-choice":
        return (2, _CHOICES, length), {0: batch, 1: Axis("choices"), 2: sequence}
    return (2, length), {0: batch, 1: sequence}


def _two_towers(module: Any) -> bool:
    """Whether texts and images are looked at one without the other, so that there may be more of one."""
    return hasattr(module.config, "vision_config")


def _positions(module: Any) -> int | None:
    """How many tokens a text may have: rows of the table of positions, after those that padding takes."""
    import torch

    config = module.config.get_text_config()
    most: int | None = getattr(config, "max_position_embeddings", None)
    for name, inner in module.named_modules():
        is_table = name.rpartition(".")[2] in ("position_embeddings", "position_embedding") and "vision" not in name
        if is_table and isinstance(inner, torch.nn.Embedding):
            taken = 0 if inner.padding_idx is None else inner.padding_idx + 1
            return inner.num_embeddings - taken
    return most if most is not None and most > 0 else None


def _tokens(head: Head, module: Any, _folder: Path) -> Given:
    """Tokens without padding; where texts have an end, each has it once, behind: some classes look for it."""
    config = module.config.get_text_config()
    size = int(getattr(config, "vocab_size", _CHARACTERS))  # models without a vocabulary (CANINE) take characters
    padding, end = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)

    def draw(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
        taken = [token for token in (padding, end) if isinstance(token, int)]
        others = np.setdiff1d(np.arange(size), taken)
        tokens = others[generator.integers(0, len(others), shape)]
        if isinstance(end, int) and 0 <= end < size and end != padding:
            tokens[..., -1] = end
        return tokens

    return Given(*_text(head, module), draw)


def _mask(head: Head, module: Any, _folder: Path) -> Given:
    """Each text of some length, with padding after it."""

    def draw(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
        lengths = generator.integers(1, shape[-1] + 1, shape[:-1])
        lengths.flat[0] = shape[-1]
        return (np.arange(shape[-1]) < lengths[..., None]).astype(np.int64)

    return Given(*_text(head, module), draw)


def _types(head: Head, module: Any, _folder: Path) -> Given:
    kinds = int(module.config.get_text_config().type_vocab_size)
    return Given(*_text(head, module), lambda shape, generator: generator.integers(0, kinds, shape))


def _boxes(head: Head, module: Any, _folder: Path) -> Given:
    """The box of each word on a page: left, top, right, bottom."""
    most = min(_BOX, int(getattr(module.config, "max_2d_position_embeddings", _BOX)) - 1)

    def draw(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
        corners = np.sort(generator.integers(0, most + 1, (*shape[:-1], 2, 2)), axis=-2)  # (…, from and to, x and y)
        return corners.reshape(shape)

    shape, axes = _text(head, module)
    return Given((*shape, 4), axes, draw)


def _noise(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    return generator.standard_normal(shape, np.float32)


def _pixels(head: Head, module: Any, folder: Path) -> Given:
    """Images, (batch, channels, height, width); videos have frames before channels.

    Models of images may say a number of frames; those of videos are the types that classify them.
    """
    config = getattr(module.config, "vision_config", module.config)
    if getattr(config, "num_patches", None) and getattr(config, "image_size", None) is None:  # SigLIP 2's NaFlex
        raise InputError(
            f"{folder}: {type(module).__name__} takes images of any shape as rows of patches, with a mask and their "
            f"shapes, of which no example is known here; {BY_HAND}"
        )
    channels = int(getattr(config, "num_channels", 3) or 3)
    height, width = _image_size(config, folder)
    looks_at_videos = any(find_head("video-classification").classes(str(getattr(module.config, "model_type", ""))))
    frames = getattr(config, "num_frames", None) if looks_at_videos or not head.name.startswith("image") else None
    shape = (2, channels, height, width) if frames is None else (2, int(frames), channels, height, width)
    return Given(shape, {0: Axis("batch")}, _noise)


def _videos(_head: Head, module: Any, folder: Path) -> Given:
    """Videos of as many frames as the model takes: (batch, frames, channels, height, width)."""
    config = getattr(module.config, "vision_config", module.config)
    frames = next((int(getattr(config, key)) for key in _CLIPS if getattr(config, key, None)), None)
    if frames is None:
        raise InputError(f"the config of {type(module).__name__} does not say how many frames a video has; {BY_HAND}")
    size = getattr(config, "crop_size", None)
    height, width = (size, size) if isinstance(size, int) else _image_size(config, folder)
    channels = next((int(getattr(config, key)) for key in _CHANNELS if getattr(config, key, None)), 3)
    return Given((2, frames, channels, height, width), {0: Axis("batch")}, _noise)


_CLIPS, _CHANNELS = ("frames_per_clip", "num_frames"), ("num_channels", "in_chans")


def _image_size(config: Any, folder: Path) -> tuple[int, int]:
    """Height and width to which the processor brings an image; without one, those of the config."""
    if any((folder / name).is_file() for name in _PROCESSORS):
        from edgepress.exporter.doors.processing.images import open_processor

        processor, sample = open_processor(folder), np.zeros((_PIXELS, _PIXELS, 3), np.uint8)
        return tuple(np.asarray(processor(images=sample, return_tensors="np")["pixel_values"]).shape[-2:])
    inner = getattr(config, "backbone_config", None)
    size = getattr(config, "image_size", None) or getattr(inner, "image_size", None) or _PIXELS
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


def _sound(head: Head, module: Any, _folder: Path) -> Given:
    """Sound as samples, (batch, samples), or a spectrogram of as many frames as positions, (batch, frames, bins)."""
    config = module.config
    if hasattr(config, "conv_kernel"):
        # of two frames, of which models that squeeze them (SEW) make one
        kernels, strides = [*config.conv_kernel], [*config.conv_stride]
        if head.name == "audio-xvector":  # whose convolutions over frames come after those over samples
            kernels += [(k - 1) * d + 1 for k, d in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True)]
            strides += [1] * len(config.tdnn_kernel)
        least = _receptive_field(kernels, strides) * int(getattr(config, "squeeze_factor", 1))
        return Given((2, 4 * least), {0: Axis("batch"), 1: Axis("samples", least=2 * least)}, _noise)
    frames, bins = (getattr(config, name, None) for name in ("max_length", "num_mel_bins"))
    if frames is None or bins is None:
        raise InputError(
            f"the config of {type(module).__name__} does not say of how many frames and bins sound is; {BY_HAND}"
        )
    return Given((2, int(frames), int(bins)), {0: Axis("batch")}, _noise)


def _receptive_field(kernels: list[int], strides: list[int]) -> int:
    """Samples from which a stack of convolutions makes one frame."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field


def _features(_head: Head, module: Any, _folder: Path) -> Given:
    """A spectrogram: (batch, bins, frames) where the positions are a fixed number, else (batch, frames, bins)."""
    config = module.config
    if hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):
        return Given((2, int(config.num_mel_bins), 2 * int(config.max_source_positions)), {0: Axis("batch")}, _noise)
    inner = getattr(config, "encoder_config", config)
    bins = next((getattr(inner, key) for key in _BINS if hasattr(inner, key)), None)
    if bins is None:
        raise InputError(
            f"the config of {type(module).__name__} does not say how many bins a frame of sound has; {BY_HAND}"
        )
    return Given((2, _FRAMES, int(bins)), {0: Axis("batch"), 1: Axis("frames", least=16)}, _noise)


_BINS = ("feature_projection_input_dim", "num_mel_bins", "input_feat_per_channel", "feature_size")
