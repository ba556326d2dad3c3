"""Sound as the input of a graph: what :class:`~edgepress.tasks.sound.Sound` says, done."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.mel import log_mel
from edgepress.processing.waves import Floats, read_wave
from edgepress.tasks.sound import Sound

Feed = dict[str, NDArray[np.generic]]
_LITTLE = 1e-7  # added to a variance before anything is divided by its root


def process_sound(wave: Floats, sound: Sound) -> tuple[Floats, int]:
    """One waveform, (samples,), as the graph takes it without the batch's axis; and how many entries of it are sound.

    Raises:
        InputError: it is shorter than the model's shortest.

    """
    if wave.size < sound.least:
        raise InputError(
            f"the sound has {wave.size:,} samples at {sound.rate:,} a second, and the model takes at least "
            f"{sound.least:,}; give more of it"
        )
    wave = wave[: sound.length]
    heard = wave.size
    if sound.normalize == "utterance":
        wave = np.asarray((wave - wave.mean()) / np.sqrt(wave.var() + _LITTLE), np.float32)
    if sound.length is not None:
        wave = np.pad(wave, (0, sound.length - heard), constant_values=sound.fill)
    if sound.mel is None:
        return np.asarray((wave - sound.mean) / sound.std, np.float32), heard
    values = log_mel(wave, sound.mel, sound.rate)  # (frames, bins)
    heard = min(len(values), -(-heard // sound.mel.hop)) if sound.length is not None else len(values)
    if sound.normalize == "bins":
        exact = values.astype(np.float64)
        normal = (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0, ddof=1) + _LITTLE)
        values = normal.astype(np.float32)
    frames = sound.frames or -(-len(values) // sound.stack) * sound.stack
    heard = min(heard, frames)
    values = np.pad(values[:frames], ((0, max(0, frames - len(values))), (0, 0)), constant_values=sound.fill)
    values = (values - np.float32(sound.mean)) / np.float32(sound.std)
    stacked = values[: len(values) // sound.stack * sound.stack].reshape(-1, sound.stack * values.shape[1])
    made = np.ascontiguousarray(stacked if sound.layout == "frames, bins" else stacked.T, np.float32)
    return made, heard // sound.stack


def sound_feed(sources: Sequence[object], sound: Sound) -> Feed:
    """The inputs for a batch of sounds of one length.

    Raises:
        InputError: one cannot be read, or they come out in different lengths; then give them one at a time.

    """
    made = [process_sound(read_wave(source, sound.rate), sound) for source in sources]
    if len({values.shape for values, _ in made}) > 1:
        raise InputError("the sounds of a batch have different lengths; give them one at a time")
    feed: Feed = {sound.input: np.stack([values for values, _ in made])}
    if sound.mask is not None:
        length = feed[sound.input].shape[2 if sound.mel is not None and sound.layout == "bins, frames" else 1]
        heard = np.array([heard for _, heard in made])
        feed[sound.mask] = (np.arange(length) < heard[:, None]).astype(np.int64)
    return feed
