"""Voice activity: a sound in, when somebody speaks out; by pieces, as a microphone gives it, or whole."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.waves import read_wave
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Voice

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Speech:
    """A stretch of speech, in seconds from the start of the sound."""

    start: float
    end: float


class VoiceDetector(TaskModel):
    """``detect(sound)``, ``stream()``."""

    takes = "a WAV file"

    def detect(self, sound: object, *, threshold: float | None = None) -> tuple[Speech, ...]:
        """When somebody speaks in a sound; ``threshold`` takes the place of the bundle's.

        Args:
            sound: a path or the bytes of a WAV file, or samples as an array, with their rate as a tuple where it is not
                the model's.
            threshold: the probability from which a piece is speech.

        Raises:
            InputError: the sound cannot be read.

        """
        part, rate = self.part(Voice), self._rate
        samples = read_wave(sound, rate)
        stretches = stretches_of(self.probabilities(sound), part, rate, threshold)
        return tuple(Speech(start / rate, min(end, samples.size) / rate) for start, end in stretches)

    def probabilities(self, sound: object) -> Floats:
        """The probability of speech in each piece of ``chunk`` samples; the last is filled up with zeros."""
        part, samples = self.part(Voice), read_wave(sound, self._rate)
        return self.stream().push(np.pad(samples, (0, -samples.size % part.chunk)))

    def stream(self) -> "VoiceStream":
        """A sound of its own that comes in pieces of any length."""
        return VoiceStream(self)

    def answer(self, sample: object) -> tuple[Speech, ...]:
        """When somebody speaks in a sound."""
        return self.detect(sample)

    @property
    def _rate(self) -> int:
        return required(self.task.sound, self, "sound").rate


class VoiceStream:
    """One sound as it comes: what the model carries from piece to piece, and samples that fill no piece yet."""

    def __init__(self, model: VoiceDetector) -> None:
        self._model, self._part = model, model.part(Voice)
        self._input = required(model.task.sound, model, "sound").input
        self._carried = {one.input: np.zeros(one.shape, model.task.input(one.input).type) for one in self._part.carried}
        self._constants = {
            name: np.array(number, model.task.input(name).type) for name, number in self._part.constants.items()
        }
        self._before = np.zeros(self._part.context, np.float32)
        self._waiting = np.zeros(0, np.float32)

    def push(self, samples: Floats) -> Floats:
        """Take samples at the model's rate; return the probabilities of the pieces that are whole now.

        Raises:
            InputError: they are no floats, (samples,).

        """
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise InputError(f"samples are {samples.dtype} of shape {samples.shape}; give floats, (samples,)")
        part = self._part
        waiting = np.concatenate([self._waiting, samples.astype(np.float32)])
        whole = waiting.size // part.chunk
        self._waiting = waiting[whole * part.chunk :]
        return np.array(
            [self._step(piece) for piece in waiting[: whole * part.chunk].reshape(whole, part.chunk)], np.float32
        )

    def _step(self, piece: Floats) -> float:
        given = np.concatenate([self._before, piece])
        outputs = self._model.run({self._input: given[None], **self._carried, **self._constants})
        self._carried = {one.input: outputs[one.output] for one in self._part.carried}
        self._before = given[given.size - self._part.context :]
        return float(np.ravel(outputs[self._part.output])[0])


def stretches_of(
    probabilities: Floats, part: Voice, rate: int, threshold: float | None = None
) -> list[tuple[int, int]]:
    """Stretches of speech, (start, end) in samples, of the probability in each piece.

    One begins where a piece reaches the threshold, and ends with the last piece above ``threshold − slack`` once
    ``silence`` seconds are below it; those of fewer than ``speech`` seconds are left out, the others get ``margin``
    seconds at both ends, as far as there is room between them.
    """
    begin = part.threshold if threshold is None else threshold
    silence, chunk = int(part.silence * rate), part.chunk
    found: list[list[int]] = []
    start: int | None = None
    quiet: int | None = None  # where the silence began that may end the stretch
    for index, probability in enumerate(probabilities):
        if probability >= begin:
            start, quiet = (index * chunk if start is None else start), None
        elif start is not None and probability < begin - part.slack:
            quiet = index * chunk if quiet is None else quiet
            if (index + 1) * chunk - quiet >= silence:
                found.append([start, quiet])
                start = quiet = None
    if start is not None:
        found.append([start, len(probabilities) * chunk if quiet is None else quiet])
    kept = [stretch for stretch in found if stretch[1] - stretch[0] >= part.speech * rate]
    margin = int(part.margin * rate)
    ends = [0, *(end for _, end in kept)]
    starts = [*(start for start, _ in kept[1:]), len(probabilities) * chunk + margin]
    return [
        (start - min(margin, (start - before) // 2 if number else start), end + min(margin, (after - end) // 2))
        for number, ((start, end), before, after) in enumerate(zip(kept, ends, starts, strict=False))
    ]


TASK = TaskKind("voice-activity", VoiceDetector)
