"""Sound from a WAV file or an array: mono, float32, at the rate that is asked for.

The format: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft 1991), and
``WAVE_FORMAT_EXTENSIBLE``. Rates are converted by soxr (``pip install 'edgepress[sound]'``).
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.schema import read_bytes

Floats = NDArray[np.float32]

LARGEST = 2 << 30
"""Bytes of a WAV file: four hours of 16-bit stereo at 44.1 kHz."""
_REMEDY = "give a WAV file of 8, 16, 24 or 32 bits or of floats, as `ffmpeg -i FILE -ac 1 -ar 16000 FILE.wav` writes it"
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MOST_CHANNELS = 64
LEAST_RATE, _MOST_RATE = 1000, 768_000  # samples a second that sound may have


def read_wave(source: object, rate: int) -> Floats:
    """Sound as (samples,) at ``rate`` samples a second; channels become their mean.

    Args:
        source: a path or the bytes of a WAV file, an array of floats in [−1, 1] or of 16-bit integers, (samples,) or
            (samples, channels), which has that rate already, or such an array with its own rate as a tuple.
        rate: samples a second.

    Raises:
        InputError: it cannot be read, is empty or holds numbers that are not finite, or the rate is another and soxr
            is not installed.

    """
    if isinstance(source, str | Path):
        samples, given = _parsed(read_bytes(Path(source), "name a WAV file", largest=LARGEST), str(source))
        what = str(source)
    elif isinstance(source, bytes | bytearray):
        what = "the sound"
        samples, given = _parsed(bytes(source), what)
    else:
        array, given = source if isinstance(source, tuple) and len(source) == 2 else (source, rate)
        what, samples = "the sound", _of_array(array)
    if samples.size == 0:
        raise InputError(f"{what} is empty; give one with samples in it")
    mono = samples.mean(axis=1, dtype=np.float32) if samples.ndim == 2 else samples
    if not np.isfinite(mono).all():
        raise InputError(f"{what} has samples that are no numbers; write it again")
    return mono if given == rate else _resampled(mono, given, rate)


def _of_array(array: object) -> Floats:
    if not isinstance(array, np.ndarray):
        raise InputError(f"sound is a path, bytes, or an array (with its rate as a tuple), not {type(array).__name__}")
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] > _MOST_CHANNELS):
        raise InputError(f"the sound is an array of the shape {array.shape}; give (samples,) or (samples, channels)")
    if array.dtype == np.int16:
        return np.asarray(array, np.float32) / np.float32(1 << 15)
    if array.dtype.kind != "f":
        raise InputError(f"the sound is an array of {array.dtype}; give floats in [−1, 1], or 16-bit integers")
    return np.asarray(array, np.float32)


def _parsed(data: bytes, what: str) -> tuple[Floats, int]:
    """Samples, (samples, channels), and rate of a WAV file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise InputError(f"{what} is no WAV file; {_REMEDY}")
    form, start = b"", 12
    while start + 8 <= len(data):
        name, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        content = memoryview(data)[start + 8 : start + 8 + size]
        if name == b"fmt ":
            form = bytes(content)
        elif name == b"data":
            return _samples(content, form, what)
        start += 8 + size + size % 2
    raise InputError(f"{what} has no samples; {_REMEDY}")


def _samples(content: memoryview, form: bytes, what: str) -> tuple[Floats, int]:
    if len(form) < 16:
        raise InputError(f"{what} does not say what its samples are; {_REMEDY}")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if kind == _EXTENSIBLE and len(form) >= 26:
        kind = int.from_bytes(form[24:26], "little")
    read = _READERS.get((kind, bits))
    if read is None:
        raise InputError(f"{what} has samples of {bits} bits in the format {kind}; {_REMEDY}")
    if not 0 < channels <= _MOST_CHANNELS or not LEAST_RATE <= rate <= _MOST_RATE:
        raise InputError(f"{what} has {channels} channels and {rate} samples a second; {_REMEDY}")
    whole = len(content) // (bits // 8 * channels) * (bits // 8 * channels)  # a file that was cut short ends in part
    return read(content[:whole]).reshape(-1, channels), rate


def _eight(content: memoryview) -> Floats:
    return np.asarray((np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128)


def _sixteen(content: memoryview) -> Floats:
    return np.asarray(np.frombuffer(content, "<i2").astype(np.float32) / np.float32(1 << 15))


def _twenty_four(content: memoryview) -> Floats:
    """Three bytes each, put into the upper three of 32-bit integers."""
    packed = np.frombuffer(content, np.uint8).reshape(-1, 3)
    wide = np.zeros((len(packed), 4), np.uint8)
    wide[:, 1:] = packed
    return np.asarray(wide.view("<i4")[:, 0] / np.float64(1 << 31), np.float32)


def _thirty_two(content: memoryview) -> Floats:
    return np.asarray(np.frombuffer(content, "<i4") / np.float64(1 << 31), np.float32)


def _floats(content: memoryview) -> Floats:
    return np.frombuffer(content, "<f4").astype(np.float32)


def _doubles(content: memoryview) -> Floats:
    return np.frombuffer(content, "<f8").astype(np.float32)


_READERS = {
    (_PCM, 8): _eight,
    (_PCM, 16): _sixteen,
    (_PCM, 24): _twenty_four,
    (_PCM, 32): _thirty_two,
    (_FLOAT, 32): _floats,
    (_FLOAT, 64): _doubles,
}


def _resampled(mono: Floats, given: object, rate: int) -> Floats:
    if not isinstance(given, int | np.integer) or not LEAST_RATE <= given <= _MOST_RATE:
        raise InputError(f"the sound has {given!r} samples a second; a rate is {LEAST_RATE:,} to {_MOST_RATE:,}")
    try:
        import soxr
    except ImportError as error:
        raise InputError(
            f"the sound has {given:,} samples a second and the model takes {rate:,}; pip install 'edgepress[sound]' "
            "converts it, or give it at that rate"
        ) from error
    return np.asarray(soxr.resample(mono, int(given), rate), np.float32)
