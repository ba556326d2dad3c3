"""Speech recognition by CTC: a sound in, what is said out.

Sound that is longer than a window goes in windows that overlap: what a model says near the ends of one, where it does
not hear what comes before or after, is left out, and the frames that are left stand one after the other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.waves import Floats, read_wave
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Transcript

WINDOW = 30.0
"""Seconds that are heard at once: what a model of any length takes grows with the square of it."""
_SHARE = 6  # of a window, at either end, that is heard and left out


@dataclass(frozen=True)
class Word:
    """A word, and when it is said, in seconds from the start of the sound."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcription:
    """What is said, and its words."""

    text: str
    words: tuple[Word, ...]


class Transcriber(TaskModel):
    """``transcribe(sound)``."""

    takes = "a WAV file"

    def transcribe(
        self, sound: object, *, window: float | None = WINDOW, overlap: float | None = None
    ) -> Transcription:
        """What is said in a sound, by the likeliest token of each frame.

        Args:
            sound: a path or the bytes of a WAV file, or samples as an array, with their rate as a tuple where it is not
                the model's.
            window: seconds that are heard at once, or None for all; a model that takes one length hears that.
            overlap: seconds at either end of a window that are heard and left out; a sixth of it when None.

        Raises:
            InputError: the sound cannot be read, or is shorter than the model takes; it is longer than a window and the
                bundle does not say how frames follow each other; or windows are no longer than what is left out.

        """
        transcript, processing = self.part(Transcript), required(self.task.sound, self, "sound")
        samples, rate = read_wave(sound, processing.rate), processing.rate
        hop, length = transcript.hop, processing.length
        size = length if length is not None else samples.size if window is None else round(window * rate)
        if samples.size <= size or (hop is None and length is None):
            best = self._best(samples, transcript)
            return decode_ctc(best, transcript, (length or samples.size) / rate / len(best))
        if hop is None:
            raise InputError(
                f"the sound has {samples.size / rate:g} s, the model hears {size / rate:g} s at once, and "
                f"{self.folder} does not say how its frames follow each other; give shorter sound, or export the "
                "checkpoint again"
            )
        side = round((size / rate / _SHARE if overlap is None else overlap) * rate / hop)  # frames
        size = size if length is not None else round(size / hop) * hop
        if not 0 <= 2 * side * hop < size:
            raise InputError(
                f"windows of {size / rate:g} s of which {side * hop / rate:g} s at either end are left out leave "
                "nothing; give longer windows, or less overlap"
            )
        pieces = []
        for start in range(0, max(1, samples.size - 2 * side * hop), size - 2 * side * hop):
            piece = samples[start : start + size]
            is_last = start + size >= samples.size
            frames = slice(side if start else 0, round(piece.size / hop) - (0 if is_last else side))
            pieces.append(self._best(piece, transcript)[frames])
        return decode_ctc(np.concatenate(pieces), transcript, hop / rate)

    def _best(self, samples: Floats, transcript: Transcript) -> NDArray[np.integer]:
        """The likeliest token of each frame, (frames,)."""
        found: NDArray[np.integer] = self.run_rows(self.feed(samples))[transcript.output][0].argmax(axis=-1)
        return found

    def answer(self, sample: object) -> Transcription:
        """What is said in a sound."""
        return self.transcribe(sample)


def decode_ctc(best: NDArray[np.integer], transcript: Transcript, seconds: float) -> Transcription:
    """The text of the likeliest token of each frame, (frames,), each of which lasts ``seconds``."""
    new = np.concatenate([[True], best[1:] != best[:-1]]) & (best != transcript.blank)
    ends = np.concatenate([np.flatnonzero(best[1:] != best[:-1]) + 1, [best.size]])
    words: list[Word] = []
    pieces: list[tuple[str, int, int]] = []

    def close() -> None:
        if pieces:
            text = "".join(piece for piece, _, _ in pieces)
            words.append(Word(text, pieces[0][1] * seconds, pieces[-1][2] * seconds))
            pieces.clear()

    for frame in np.flatnonzero(new):
        token = transcript.vocabulary[best[frame]]
        if token == transcript.space:
            close()
        else:
            written = token.lower() if transcript.lower else token
            pieces.append((written, int(frame), int(ends[np.searchsorted(ends, frame, side="right")])))
    close()
    return Transcription(" ".join(word.text for word in words), tuple(words))


TASK = TaskKind("automatic-speech-recognition", Transcriber)
