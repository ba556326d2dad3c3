"""How an image becomes the input of a graph, as data: the entry ``images`` of a task.

The steps, in this order; one that is None or as it stands by default changes nothing::

    decode → mode → resize → crop → channel order → · scale + offset → (− mean) / std → pad → layout

Resizing is Pillow's, on the image's 8-bit values: filters have its names and are antialiased, as its are.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edgepress.schema import Count

Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
Channels = Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=4)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """To which size an image of (h, w) pixels is resized. ``fit`` is

    - ``stretch``: to (height, width), whatever its shape
    - ``shortest``: its shorter edge to ``height`` = ``width``, the longer one by the same factor, rounded down; with
      ``longest`` the factor is smaller where the longer edge would be longer than that; both then to the next smaller
      multiple of ``multiple_of``
    - ``inside``: as large as fits in (height, width) by one factor, rounded down
    - ``closest``: by one factor, height / h or width / w, the one that is nearer to 1; each edge is then the nearest
      multiple of ``multiple_of``
    - ``down``: each edge to the next smaller multiple of ``multiple_of``; height and width are not used
    """

    fit: Literal["stretch", "shortest", "inside", "closest", "down"]
    height: Count
    width: Count
    filter: Filter = "bilinear"
    longest: Count | None = None
    multiple_of: Count = 1


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The middle of an image, (height, width); zeros stand around one that is smaller.

    ``half`` says where an odd border goes: ``down`` leaves the smaller half before the crop, ``even`` rounds it to the
    even number, as torchvision does.
    """

    height: Count
    width: Count
    half: Literal["down", "even"] = "down"


@dataclass(frozen=True, kw_only=True)
class Pad:
    """Up to which size an image is padded with the value ``fill``, that of a pixel as the graph takes it.

    It is (height, width), or where these are None the next multiple of ``multiple_of``. The image is at the ``start``,
    with padding after its last row and column, or in the ``middle``, with the smaller half of it before.
    """

    height: Count | None = None
    width: Count | None = None
    multiple_of: Count = 1
    fill: float = 0.0
    place: Literal["start", "middle"] = "start"


@dataclass(frozen=True, kw_only=True)
class Images:
    """How an image becomes the graph's input ``input``.

    ``mask`` is the input that is 1 where a pixel is the image's and 0 where it is padding, where the graph has one.
    ``scale`` is 1 / 255 for most models, and 1 where the graph takes bytes.
    """

    input: _Name
    mode: Literal["RGB", "L"] = "RGB"
    resize: Resize | None = None
    crop: Crop | None = None
    pad: Pad | None = None
    order: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1.0
    offset: float = 0.0
    mean: Channels | None = None
    std: Channels | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mask: _Name | None = None

    @property
    def channels(self) -> int:
        """Of an image, once it has its mode."""
        return len(self.mode)


def check_images(images: Images) -> None:
    """Raise a ValueError where two entries disagree."""
    for name, values in (("mean", images.mean), ("std", images.std)):
        if values is not None and len(values) != images.channels:
            raise ValueError(f"images: {name} has {len(values)} numbers and an image {images.channels} channels")
    if images.std is not None and 0.0 in images.std:
        raise ValueError("images: std is 0 in a channel, by which nothing can be divided")
    if images.mode != "RGB" and images.order != "RGB":
        raise ValueError(f"images: the channel order is {images.order}, and an image of mode {images.mode} has one")
    if images.resize is not None and images.resize.fit == "shortest" and images.resize.height != images.resize.width:
        raise ValueError(
            f"images: the shorter edge is {images.resize.height} as height and {images.resize.width} as width; "
            "it is one number"
        )
    if images.mask is not None and images.pad is not None and images.pad.place != "start":
        raise ValueError("images: a mask of padding goes with images that stand at the start of it")
    if images.pad is not None and (images.pad.height is None) != (images.pad.width is None):
        raise ValueError("images: padding has one of height and width; it has both or none")
