"""An image as the input of a graph: what :class:`~edgepress.tasks.images.Images` says, done.

Files are decoded and resized by Pillow (``pip install 'edgepress[images]'``); an array that already has its size needs
neither.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.tasks.images import Crop, Images, Pad, Resize

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource = "str | Path | bytes | NDArray[np.generic] | Image"
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

MOST_PIXELS = 100_000_000
"""Of an image, as its file says it or as it is resized: what a file of some kilobytes can claim fills no memory."""
_LARGEST_FILE = 512 << 20  # bytes
_DEEP_MODES = ("I", "F")  # modes of Pillow, or how they begin, that have more than 8 bits a channel
_NUMBERED_MODES = ("P", "1")  # with a palette; one bit


def read_image(source: object, mode: str = "RGB") -> Bytes:
    """An image as (h, w, channels) of the mode ``RGB`` or ``L``, turned upright where its file says how.

    Args:
        source: a path, the bytes of a file, an image of Pillow, or an array of bytes, (h, w), (h, w, 1), (h, w, 3) or
            (h, w, 4) whose last channel is transparency, which is left out.
        mode: ``RGB`` or ``L`` (grey).

    Raises:
        InputError: it cannot be read, is damaged, has more than 8 bits a channel or more than ``MOST_PIXELS``.

    """
    if isinstance(source, np.ndarray):
        return _of_array(source, mode)
    return _of_pillow(_opened(source), _named(source), mode)


def read_classes(source: object) -> NDArray[np.int64]:
    """An image whose pixels are numbers of classes, (h, w): grey, one bit, or the numbers of colours in a palette.

    Args:
        source: as :func:`read_image` takes it.

    Raises:
        InputError: it cannot be read, or it has colours and no palette, so that they are no numbers.

    """
    if not isinstance(source, np.ndarray):
        image = _opened(source)
        if image.mode in _NUMBERED_MODES:  # as grey they would be how bright the colours of the palette are
            return _pixels(image, _named(source), None).astype(np.int64)
        source = _of_pillow(image, _named(source), "RGB")
    pixels = _of_array(source, "RGB")
    if (pixels != pixels[:, :, :1]).any():
        raise InputError("the mask has colours, and no palette says which class each is; save it in grey or by numbers")
    return pixels[:, :, 0].astype(np.int64)


def _named(source: object) -> str:
    return "the image" if isinstance(source, bytes) else str(source)


def _of_array(array: NDArray[np.generic], mode: str) -> Bytes:
    if array.dtype != np.uint8:
        raise InputError(f"the image is an array of {array.dtype}; give bytes (uint8), 0 to 255")
    image: Bytes = array.astype(np.uint8, copy=False)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise InputError(
            f"the image has the shape {array.shape}; give (height, width), or (height, width, channels) with 1, 3 or 4 "
            "channels"
        )
    image = image[:, :, :3]
    if image.shape[2] == len(mode):
        return image
    if mode == "RGB":
        return np.repeat(image, 3, axis=2)
    pillow = _pillow("colours become grey")
    return np.asarray(pillow.fromarray(image).convert(mode))[:, :, None]


def _of_pillow(image: "Image", what: str, mode: str) -> Bytes:
    """The pixels of an opened image, (h, w, channels) of the mode."""
    pixels: Bytes = _pixels(image, what, mode)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _pixels(image: "Image", what: str, mode: str | None) -> NDArray[Any]:
    """The pixels, upright, as the mode has them, or as the image has; what is wrong with a file is found here."""
    if image.width * image.height > MOST_PIXELS:
        raise InputError(
            f"{what} has {image.width:,} × {image.height:,} pixels, more than the {MOST_PIXELS:,} that are read; make "
            "it smaller"
        )
    if image.mode.startswith(_DEEP_MODES):
        raise InputError(f"{what} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits first")
    from PIL import ImageOps

    try:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright if mode is None else upright.convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:  # what Pillow's decoders raise
        raise InputError(f"{what} cannot be decoded: {error}; the file is damaged or cut short") from error


def _opened(source: object) -> "Image":
    pillow = _pillow("image files are decoded")
    image: Image
    if isinstance(source, pillow.Image):
        image = source
        return image
    if isinstance(source, bytes | bytearray):
        file, what = bytes(source), "the image"
    elif isinstance(source, str | Path):
        from edgepress.schema import read_bytes

        file, what = read_bytes(Path(source), "name an image file", largest=_LARGEST_FILE), str(source)
    else:
        raise InputError(f"an image is a path, bytes, an array or an image of Pillow, not {type(source).__name__}")
    try:
        image = pillow.open(io.BytesIO(file))
    except pillow.DecompressionBombError as error:
        raise InputError(f"{what} has more than the {MOST_PIXELS:,} pixels that are read; make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"{what} is no image that Pillow can read, or it is damaged") from error
    return image


def _pillow(why: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(f"{why} by Pillow, which is not installed; pip install 'edgepress[images]'") from error
    return Image


def process_image(image: Bytes, images: Images) -> tuple[Floats, tuple[int, int]]:
    """One image, (h, w, channels), as the graph takes it without the batch's axis; and how much of it is no padding.

    Raises:
        InputError: resized as the task says it would have no pixels, or too many.

    """
    if images.resize is not None:
        image = _resized(image, images.resize)
    if images.crop is not None:
        image = _cropped(image, images.crop)
    height, width = image.shape[:2]
    if images.order == "BGR":
        image = image[:, :, ::-1]
    values = image.astype(np.float32)
    if images.scale != 1.0:
        values *= np.float32(images.scale)
    if images.offset:
        values += np.float32(images.offset)
    if images.mean is not None:
        values -= np.array(images.mean, np.float32)
    if images.std is not None:
        values /= np.array(images.std, np.float32)
    if images.pad is not None:
        values = _padded(values, images.pad)
    return (values.transpose(2, 0, 1) if images.layout == "NCHW" else values), (height, width)


def image_feed(sources: Sequence[object], images: Images, kind: str = "float32") -> dict[str, NDArray[np.generic]]:
    """The inputs for a batch of images: those of one size stand side by side; others are padded with zeros at the ends.

    Padding needs a graph with a mask, which says what is padding.

    Raises:
        InputError: an image cannot be read, or they come out in different sizes and the graph has no mask.

    """
    made = [process_image(read_image(source, images.mode), images) for source in sources]
    first, second = (1, 2) if images.layout == "NCHW" else (0, 1)
    height, width = (max(image.shape[axis] for image, _ in made) for axis in (first, second))
    if images.mask is None and any((image.shape[first], image.shape[second]) != (height, width) for image, _ in made):
        sizes = sorted({(image.shape[first], image.shape[second]) for image, _ in made})
        raise InputError(
            f"the images of a batch have different sizes, {sizes[0]} and {sizes[-1]} among them, and the model takes "
            "no mask of what is padding; give them one at a time"
        )
    shape = [len(made), *made[0][0].shape]
    shape[first + 1], shape[second + 1] = height, width
    pixels = np.zeros(shape, kind)
    masks = np.zeros((len(made), height, width), np.int64)
    for index, (image, (rows, columns)) in enumerate(made):
        pixels[index][tuple(slice(size) for size in image.shape)] = image
        masks[index, :rows, :columns] = 1
    return {images.input: pixels} if images.mask is None else {images.input: pixels, images.mask: masks}


def target_size(height: int, width: int, resize: Resize) -> tuple[int, int]:
    """Height and width of an image after ``resize``, as transformers' image processors and torchvision round them.

    Raises:
        InputError: it would have no pixels, or too many.

    """
    made = _SIZES[resize.fit](height, width, resize)
    if min(made) < 1 or made[0] * made[1] > MOST_PIXELS:
        raise InputError(
            f"an image of {height} × {width} pixels would be resized to {made[0]} × {made[1]}; give one that is less "
            "long and thin"
        )
    return made


def _stretch(height: int, width: int, resize: Resize) -> tuple[int, int]:  # noqa: ARG001 - one of _SIZES
    return resize.height, resize.width


def _shortest(height: int, width: int, resize: Resize) -> tuple[int, int]:
    short, long = min(height, width), max(height, width)
    edge: float = resize.height
    if resize.longest is not None and long / short * edge > resize.longest:
        edge = resize.longest * short / long
    made_short = round(edge)
    made_long = long if made_short == short else int(edge * long / short)
    made_height, made_width = (made_short, made_long) if height <= width else (made_long, made_short)
    of = resize.multiple_of
    return made_height // of * of, made_width // of * of


def _inside(height: int, width: int, resize: Resize) -> tuple[int, int]:
    factor = min(resize.height / height, resize.width / width)
    return int(height * factor), int(width * factor)


def _closest(height: int, width: int, resize: Resize) -> tuple[int, int]:
    factor = min(resize.height / height, resize.width / width, key=lambda factor: abs(1 - factor))
    of = resize.multiple_of
    return round(factor * height / of) * of, round(factor * width / of) * of


def _down(height: int, width: int, resize: Resize) -> tuple[int, int]:
    of = resize.multiple_of
    return height // of * of, width // of * of


_SIZES = {"stretch": _stretch, "shortest": _shortest, "inside": _inside, "closest": _closest, "down": _down}


def _resized(image: Bytes, resize: Resize) -> Bytes:
    height, width = target_size(image.shape[0], image.shape[1], resize)
    if (height, width) == image.shape[:2]:
        return image
    pillow = _pillow("images are resized")
    flat = image[:, :, 0] if image.shape[2] == 1 else image
    filter_ = pillow.Resampling[resize.filter.upper()]
    resized = np.asarray(pillow.fromarray(flat).resize((width, height), filter_))
    return resized if resized.ndim == 3 else resized[:, :, None]


def _cropped(image: Bytes, crop: Crop) -> Bytes:
    """The middle; first zeros are put around an image that is smaller, the larger half of them before it or behind."""
    for axis, size in ((0, crop.height), (1, crop.width)):
        missing = size - image.shape[axis]
        if missing > 0:
            before = -(-missing // 2) if crop.half == "down" else missing // 2
            around = [(before, missing - before) if axis == other else (0, 0) for other in range(3)]
            image = np.pad(image, around)
        else:
            start = -missing // 2 if crop.half == "down" else round(-missing / 2)
            image = image[start : start + size] if axis == 0 else image[:, start : start + size]
    return image


def _padded(values: Floats, pad: Pad) -> Floats:
    made, of = values.shape[:2], pad.multiple_of
    wanted = [fixed or -(-size // of) * of for fixed, size in zip((pad.height, pad.width), made, strict=True)]
    missing = [size - size_made for size, size_made in zip(wanted, made, strict=True)]
    if min(missing) < 0:
        raise InputError(f"an image is resized to {made[0]} × {made[1]} pixels and padded to {wanted[0]} × {wanted[1]}")
    before = [size // 2 if pad.place == "middle" else 0 for size in missing]
    around = [(first, size - first) for first, size in zip(before, missing, strict=True)]
    return np.pad(values, (*around, (0, 0)), constant_values=pad.fill)
