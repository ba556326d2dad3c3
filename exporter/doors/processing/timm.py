"""What timm's ``pretrained_cfg`` says of images, as its evaluation does it (timm/data/transforms_factory.py)."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from edgepress.errors import InputError
from edgepress.schema import Count, convert
from edgepress.tasks.images import Crop, Filter, Images, Resize
from edgepress.tasks.task import Task

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, where nothing is said


class _Config(msgspec.Struct, frozen=True):
    """The entries of a ``pretrained_cfg`` that are read; it has more."""

    input_size: tuple[Count, Count, Count]
    crop_pct: Annotated[float, msgspec.Meta(gt=0)] = 0.875
    crop_mode: Literal["center", "squash"] | None = None
    interpolation: Filter | None = None
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD


def read_timm(config: Mapping[str, object], task: Task) -> Images:
    """How timm evaluates a model: the shorter edge made 1 / ``crop_pct`` of the size, its middle, mean and std.

    Raises:
        InputError: an entry is not what it should be, or it crops in a way that is not known.

    """
    said = convert(config, _Config, "pretrained_cfg", "correct it, or give arrays to run()")
    channels, height, width = said.input_size
    if channels not in (1, 3):
        raise InputError(f"pretrained_cfg: input_size has {channels} channels; images have 1 or 3")
    images = [edge.name for edge in task.inputs if len(edge.shape) == 4]
    if len(images) != 1:
        raise InputError(f"{task.name} takes an image, and {len(images)} inputs of the graph have the shape of one")
    if height != width and said.crop_mode != "squash":
        raise InputError(f"pretrained_cfg: the middle of {height} × {width} pixels, of an edge that is not said")
    scaled = [math.floor(size / said.crop_pct) for size in (height, width)]
    resize = Resize(
        fit="stretch" if said.crop_mode == "squash" else "shortest",
        height=scaled[0],
        width=scaled[1],
        filter=said.interpolation or "bicubic",
    )
    return Images(
        input=images[0],
        mode="RGB" if channels == 3 else "L",
        resize=resize,
        crop=Crop(height=height, width=width, half="even"),
        scale=1 / 255,
        mean=said.mean,
        std=said.std,
    )
