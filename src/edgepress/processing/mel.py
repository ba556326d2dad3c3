"""Log-mel spectrograms with numpy: what :class:`~edgepress.tasks.sound.Mel` says, done.

Mel scales: HTK, 2595 log₁₀(1 + f / 700) [O'Shaughnessy 1987]; Kaldi, 1127 ln(1 + f / 700), the same up to rounding;
Slaney, linear below 1 kHz and logarithmic above [Slaney 1998, Auditory Toolbox].
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.tasks.sound import Mel, Scale

Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]

_PIECE = 4096  # frames that are transformed at once
_LINEAR, _FIRST_LOG, _STEP = (
    200 / 3,
    1000.0,
    np.log(6.4) / 27,
)  # Slaney's: Hz a mel, where its logarithm begins, its step


def log_mel(wave: Floats, mel: Mel, rate: int) -> Floats:
    """The spectrogram of a waveform, (samples,), as (frames, bins).

    Raises:
        InputError: the waveform is shorter than a frame needs.

    """
    samples = wave.astype(np.float64) * mel.amplitude
    if mel.centred:
        if samples.size <= mel.n_fft // 2:
            raise InputError(f"sound of {samples.size} samples is too short for frames of {mel.n_fft}; give more of it")
        samples = np.pad(samples, mel.n_fft // 2, mode="reflect")
    if samples.size < mel.frame:
        raise InputError(f"sound of {wave.size} samples is shorter than a frame of {mel.frame}; give more of it")
    frames = np.lib.stride_tricks.sliding_window_view(samples, mel.frame)[:: mel.hop]  # (frames, frame)
    if mel.drop_last:
        frames = frames[:-1]
    powers = [_power(frames[start : start + _PIECE], mel) for start in range(0, len(frames), _PIECE)]
    passed = np.concatenate(powers) @ filters(mel, rate)  # (frames, bins)
    logarithm = np.log10 if mel.log == "log10" else np.log
    made = logarithm(np.maximum(passed, mel.floor))
    if mel.range is not None:
        made = np.maximum(made, made.max() - mel.range)
    return np.asarray(made, np.float32)


def _power(frames: _Doubles, mel: Mel) -> _Doubles:
    """Power of each frequency, (frames, n_fft // 2 + 1)."""
    if mel.remove_mean:
        frames = frames - frames.mean(axis=1, keepdims=True)
    if mel.preemphasis:
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        frames = frames - mel.preemphasis * before
    spectrum = np.fft.rfft(frames * window(mel), n=mel.n_fft, axis=1)
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


@lru_cache(maxsize=8)
def window(mel: Mel) -> _Doubles:
    """The weights of a frame's samples."""
    count = mel.frame + mel.periodic
    angle = 2 * np.pi * np.arange(mel.frame) / max(count - 1, 1)
    if mel.window == "hamming":
        return np.asarray(0.54 - 0.46 * np.cos(angle))
    hann = 0.5 - 0.5 * np.cos(angle)
    return np.asarray(hann**0.85 if mel.window == "povey" else hann)


@lru_cache(maxsize=8)
def filters(mel: Mel, rate: int) -> _Doubles:
    """What each filter lets through of each frequency, (n_fft // 2 + 1, bins)."""
    low, high = to_mel(np.array([mel.low, mel.high]), mel.scale)
    corners: _Doubles = np.linspace(float(low), float(high), mel.bins + 2)
    frequencies: _Doubles = np.arange(mel.n_fft // 2 + 1, dtype=np.float64) * (rate / mel.n_fft)
    if mel.scale == "kaldi":
        frequencies = to_mel(frequencies, mel.scale)
    else:
        corners = to_hertz(corners, mel.scale)
    rising = (frequencies[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies[:, None]) / (corners[2:] - corners[1:-1])
    made = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(made if mel.norm is None else made * (2 / (corners[2:] - corners[:-2])))


def to_mel(hertz: _Doubles, scale: Scale) -> _Doubles:
    """Frequencies on a mel scale."""
    if scale == "slaney":
        above = _FIRST_LOG / _LINEAR + np.log(np.maximum(hertz, _FIRST_LOG) / _FIRST_LOG) / _STEP
        return np.asarray(np.where(hertz < _FIRST_LOG, hertz / _LINEAR, above))
    factor = 1127.0 if scale == "kaldi" else 2595.0 / np.log(10)
    return np.asarray(factor * np.log(1 + hertz / 700))


def to_hertz(mels: _Doubles, scale: Scale) -> _Doubles:
    """The frequencies that stand at places of a mel scale."""
    if scale == "slaney":
        first = _FIRST_LOG / _LINEAR
        return np.asarray(np.where(mels < first, mels * _LINEAR, _FIRST_LOG * np.exp(_STEP * (mels - first))))
    factor = 1127.0 if scale == "kaldi" else 2595.0 / np.log(10)
    return np.asarray(700 * (np.exp(mels / factor) - 1))
