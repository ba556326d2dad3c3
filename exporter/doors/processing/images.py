"""What an image processor of transformers does, as :class:`~edgepress.tasks.images.Images`.

transformers 5 has two of each processor: one on torchvision, its default, and one on Pillow. Ours is held against the
one on Pillow: torchvision weighs bytes with numbers of its own, so most pixels that are resized are the same, others
one step of 255 apart, and with the bicubic filter some are several.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.errors import InputError
from edgepress.processing.images import Bytes, image_feed
from edgepress.tasks.images import Crop, Filter, Images, Pad, Resize
from edgepress.tasks.task import Task

IMAGE_TASKS = frozenset(
    {
        "depth-estimation",
        "image-classification",
        "image-feature-extraction",
        "object-detection",
        "semantic-segmentation",
        "zero-shot-image-classification",
    }
)
"""Tasks whose input is an image."""

_FILES = ("preprocessor_config.json", "processor_config.json")
_FILTERS: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_LEVIT = 256 / 224  # how much longer than the crop its processor makes the shorter edge, whatever the file says
_WARPED_FROM = 384  # pixels from which ConvNeXt's processor crops nothing
_PROBES = ((64, 48), (37, 91), (230, 310), (224, 224))  # (height, width) of the samples
_CLOSE = 1e-5


def read_images(folder: Path, task: Task) -> Images:
    """How the checkpoint's own processor makes the graph's input.

    Raises:
        InputError: there is no processor or it cannot be opened, or it does what :class:`Images` cannot say.

    """
    processor = open_processor(folder)
    names = [edge.name for edge in task.inputs]
    pixels = "pixel_values" if "pixel_values" in names else _only_image(task)
    mask = "pixel_mask" if "pixel_mask" in names else None
    said = {name: getattr(processor, name, None) for name in dir(processor) if not name.startswith("_")}
    kind = type(processor).__name__
    samples = [_sample(height, width) for height, width in _PROBES]
    wanted = [_computed(processor, sample, kind) for sample in samples]
    for candidate in _candidates(said, pixels, mask):
        if all(_agrees(candidate, sample, pixels_of) for sample, pixels_of in zip(samples, wanted, strict=True)):
            return candidate
    raise InputError(
        f"{folder}: {kind} does something to images that a bundle's manifest cannot say; export the model as a torch "
        "module or an ONNX file and give arrays to run()"
    )


def open_processor(folder: Path) -> Any:
    """The image processor of a checkpoint, on Pillow; no code of the checkpoint is run.

    Raises:
        InputError: there is none, or transformers cannot open it.

    """
    if not any((folder / name).is_file() for name in _FILES):
        raise InputError(
            f"{folder} has no {_FILES[0]}, which says how images become inputs; copy it from where the model came from"
        )
    try:
        import PIL.Image  # noqa: F401 - transformers' message would be about its own names
        from transformers import AutoImageProcessor
    except ImportError as error:
        raise InputError("an image processor is read with Pillow; pip install 'edgepress[export,images]'") from error
    try:
        opened: Any = AutoImageProcessor
        return opened.from_pretrained(str(folder), backend="pil", local_files_only=True)
    except Exception as error:  # what transformers raises on files it does not understand is of any kind
        raise InputError(f"{folder}: its image processor cannot be opened: {error}") from error


def _only_image(task: Task) -> str:
    images = [edge.name for edge in task.inputs if len(edge.shape) == 4]
    if len(images) != 1:
        raise InputError(f"{task.name} takes an image, and {len(images)} inputs of the graph have the shape of one")
    return images[0]


def _sample(height: int, width: int) -> Bytes:
    """An image with edges, slopes and noise, so that filters and crops show."""
    generator = np.random.default_rng([height, width])
    slope = np.linspace(0, 255, height)[:, None, None] * np.linspace(1, 0.2, width)[None, :, None]
    noise = generator.integers(0, 256, (height, width, 3))
    return np.where(noise % 4 == 0, noise, slope).astype(np.uint8)


def _computed(processor: Any, sample: Bytes, kind: str) -> Mapping[str, Any]:
    from PIL import Image

    try:
        made = processor(images=Image.fromarray(sample), return_tensors="np")
    except Exception as error:  # of any kind, as above
        raise InputError(
            f"{kind} fails on an image of {sample.shape[0]} × {sample.shape[1]} pixels: {error}"
        ) from error
    return dict(made)


def _agrees(candidate: Images, sample: Bytes, wanted: Mapping[str, Any]) -> bool:
    pixels = wanted.get("pixel_values")
    try:
        ours = image_feed([sample], candidate)
    except InputError:
        return False
    made = ours[candidate.input]
    same = pixels is not None and made.shape == np.shape(pixels) and bool(np.allclose(made, pixels, _CLOSE, _CLOSE))
    if candidate.mask is None or not same:
        return same
    return np.array_equal(ours[candidate.mask], wanted.get("pixel_mask", ()))


def _candidates(said: Mapping[str, Any], pixels: str, mask: str | None) -> Iterator[Images]:
    """What the processor's attributes may mean, the most common meaning first."""
    mean, std = _channels(said.get("image_mean")), _channels(said.get("image_std"))
    normal = Images(input=pixels, mask=mask, mode="L" if mean is not None and len(mean) == 1 else "RGB")
    if said.get("do_rescale"):
        offset = -1.0 if said.get("rescale_offset") else 0.0
        normal = replace(normal, scale=float(said["rescale_factor"]), offset=offset)
    if said.get("do_normalize"):
        if said.get("include_top") and std is not None:  # EfficientNet's divides by it twice
            std = tuple(value * value for value in std)
        normal = replace(normal, mean=mean, std=std)
    if said.get("do_flip_channel_order"):
        normal = replace(normal, order="BGR", mean=None, std=None)
    for (resize, crop), pad in product(_sizes(said), _pads(said)):
        yield replace(normal, resize=resize, crop=crop, pad=pad)


def _channels(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(map(float, values))


def _sizes(said: Mapping[str, Any]) -> Iterator[tuple[Resize | None, Crop | None]]:
    """What is resized to which size, and what is cropped of it."""
    cropped, size = said.get("crop_size"), said.get("size")
    crop = None
    if said.get("do_center_crop") and cropped is not None:
        crop = Crop(height=cropped.height, width=cropped.width)
    if not said.get("do_resize"):
        yield None, crop
        return
    filter_ = _FILTERS[int(said.get("resample") or 0)]

    def shortest(edge: float, longest: int | None = None, of: int = 1) -> Resize:
        return Resize(
            fit="shortest", height=int(edge), width=int(edge), filter=filter_, longest=longest, multiple_of=of
        )

    share = said.get("crop_pct")
    if size is None or not any(vars(size).values()):
        yield Resize(fit="down", height=1, width=1, filter=filter_, multiple_of=said.get("size_divisor") or 1), crop
    elif size.shortest_edge:
        edge = size.shortest_edge
        if share:
            yield shortest(edge / share), crop or Crop(height=edge, width=edge)
            if edge >= _WARPED_FROM:
                yield Resize(fit="stretch", height=edge, width=edge, filter=filter_), crop
        yield shortest(edge, size.longest_edge), crop
        yield shortest(_LEVIT * edge), crop
        yield shortest(edge, size.longest_edge, 16), crop  # YOLOS
    elif size.max_height:
        yield Resize(fit="inside", height=size.max_height, width=size.max_width, filter=filter_), crop
    elif size.height:
        if share and size.height == size.width:
            yield shortest(size.height / share), crop
        of = said.get("ensure_multiple_of") or 1
        height, width = size.height, size.width
        if said.get("keep_aspect_ratio"):
            yield Resize(fit="closest", height=height, width=width, filter=filter_, multiple_of=of), crop
        height, width = round(height / of) * of, round(width / of) * of
        yield Resize(fit="stretch", height=height, width=width, filter=filter_), crop


def _pads(said: Mapping[str, Any]) -> Iterator[Pad | None]:
    """How images are padded; a batch is padded to its largest image anyway."""
    yield None
    size, of = said.get("pad_size"), said.get("size_divisor")
    if size is not None and size.height:
        yield Pad(height=size.height, width=size.width)
    if of:
        yield Pad(multiple_of=of)
        yield Pad(multiple_of=of, place="middle")
