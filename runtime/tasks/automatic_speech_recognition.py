"""Speech recognition by CTC: a sound in, what is said out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.processing.waves import read_wave
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Transcript


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

    def transcribe(self, sound: object) -> Transcription:
        """What is said in a sound, by the likeliest token of each frame.

        Args:
            sound: a path or the bytes of a WAV file, or samples as an array, with their rate as a tuple where it is not
                the model's.

        Raises:
            InputError: the sound cannot be read, or is shorter than the model takes.

        """
        transcript, processing = self.part(Transcript), required(self.task.sound, self, "sound")
        samples = read_wave(sound, processing.rate)
        logits = self.run_rows(self.feed(samples))[transcript.output][0]  # (frames, tokens)
        taken = processing.length or samples.size
        return decode_ctc(logits.argmax(axis=-1), transcript, taken / processing.rate / len(logits))

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
