"""How sound becomes the input of a graph, as data: the entry ``sound`` of a task.

A waveform is mono, float32 in [−1, 1], ``rate`` samples a second. The steps, in this order; one that is None or as it
stands by default changes nothing::

    mono, rate → length → normalize "utterance" → mel → normalize "bins" → frames → (− mean) / std → stack → layout
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edgepress.schema import Count

Window = Literal["hann", "povey", "hamming"]
Scale = Literal["htk", "slaney", "kaldi"]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Mel:
    """A log-mel spectrogram: the logarithm of the power that each of ``bins`` filters lets through, at least ``floor``.

    A frame has ``frame`` samples under a ``window`` (``periodic`` or symmetric), zeros up to ``n_fft`` behind them, and
    the next one begins ``hop`` samples later. With ``centred`` the first is centred on the first sample, the signal
    reflected at its ends; without, frames lie whole in it. ``drop_last`` leaves out the last frame. Before the window a
    frame may lose its mean (``remove_mean``) and get ``preemphasis``, x[n] − c · x[n − 1], as in Kaldi; samples are
    multiplied by ``amplitude``, 2¹⁵ where they were 16-bit numbers in training.

    Filters are triangles over the frequencies from ``low`` to ``high`` Hz, their corners evenly spaced on the mel
    ``scale``; those of ``kaldi`` are triangles on that scale too. ``norm`` "slaney" gives each the same area. With
    ``range`` nothing is smaller than the maximum minus it.
    """

    n_fft: Count
    frame: Count
    hop: Count
    bins: Count
    low: float = 0.0
    high: _Positive
    window: Window = "hann"
    periodic: bool = True
    centred: bool = False
    drop_last: bool = False
    remove_mean: bool = False
    preemphasis: float = 0.0
    amplitude: _Positive = 1.0
    scale: Scale = "slaney"
    norm: Literal["slaney"] | None = None
    log: Literal["log10", "ln"] = "ln"
    floor: _Positive = 1e-10
    range: _Positive | None = None


@dataclass(frozen=True, kw_only=True)
class Sound:
    """How sound becomes the graph's input ``input``: (batch, samples), or with ``mel`` (batch, …) in ``layout``.

    ``length`` is the number of samples, and ``frames`` that of a spectrogram's frames, that every input has: what is
    longer is cut, what is shorter gets ``fill`` behind it. Where they are None any length will do, of at least
    ``least`` samples. ``normalize`` is ``utterance`` where a waveform gets mean 0 and variance 1, ``bins`` where each
    bin of a spectrogram does over its frames. ``stack`` frames are joined to one; before that there is ``fill`` up to a
    multiple of it. ``mask`` is the input that is 1 where there is sound and 0 where it is filled up, where the graph
    has one.
    """

    input: _Name
    rate: Count
    length: Count | None = None
    least: Count = 1
    normalize: Literal["utterance", "bins"] | None = None
    mel: Mel | None = None
    frames: Count | None = None
    fill: float = 0.0
    mean: float = 0.0
    std: _Positive = 1.0
    stack: Count = 1
    layout: Literal["bins, frames", "frames, bins"] = "bins, frames"
    mask: _Name | None = None


def check_sound(sound: Sound) -> None:
    """Raise a ValueError where two entries disagree."""
    mel = sound.mel
    if mel is None:
        if sound.frames is not None or sound.normalize == "bins" or sound.stack > 1:
            raise ValueError("sound: frames, stack and normalize = bins are of a spectrogram, and there is no mel")
        return
    if mel.frame > mel.n_fft:
        raise ValueError(f"sound: a frame has {mel.frame} samples, more than the {mel.n_fft} of its transform")
    if not 0 <= mel.low < mel.high <= sound.rate / 2:
        raise ValueError(f"sound: filters from {mel.low:g} to {mel.high:g} Hz; half the rate is {sound.rate / 2:g}")
    if mel.scale == "kaldi" and mel.norm is not None:
        raise ValueError("sound: filters on Kaldi's scale have no norm")
