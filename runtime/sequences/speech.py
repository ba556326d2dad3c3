"""Speech into text by an encoder and a decoder: Whisper's windows of 30 s, and models that take sound of any length.

Longer sound goes through a model of Whisper's kind in windows, as transformers does it: the target tells times, a
window ends at the last time that was told as the end of a piece of text, and the next one begins there (Radford et al.
2022, section 3.8).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.sound import process_sound
from edgepress.processing.waves import read_wave
from edgepress.runtime.sequences.model import SequenceModel, Settings
from edgepress.runtime.sequences.rules import Times
from edgepress.runtime.tasks.kinds import required
from edgepress.tasks.sequences import Speech
from edgepress.tasks.sound import Sound

Floats = NDArray[np.float32]
TRANSCRIBE = "transcribe"


@dataclass(frozen=True)
class Segment:
    """A piece of text, and when it is said, in seconds from the start of the sound; ``tokens`` are those of times too.

    ``end`` is the end of the sound where no time was told.
    """

    text: str
    start: float
    end: float
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Spoken:
    """What is said, its segments, and in which language where a model has several."""

    text: str
    segments: tuple[Segment, ...]
    language: str | None = None


class SpeechModel(SequenceModel):
    """``transcribe(sound)``, and ``segments(sound)`` as they come."""

    takes = "a WAV file"

    def transcribe(
        self,
        sound: object,
        *,
        language: str | None = None,
        purpose: str = TRANSCRIBE,
        timestamps: bool = False,
        **settings: Unpack[Settings],
    ) -> Spoken:
        """What is said in a sound.

        Args:
            sound: a path or the bytes of a WAV file, or samples as an array, with their rate as a tuple where it is not
                the model's.
            language: the code of what is spoken; found by the model where it is None and there are several.
            purpose: ``transcribe``, or ``translate`` into English where the model can.
            timestamps: whether to tell times; sound that is longer than a window needs them anyway.
            settings: of the search.

        Raises:
            InputError: the sound cannot be read or is too short, there is no such language or purpose, or a setting is
                out of its range.

        """
        samples = read_wave(sound, self.sound.rate)
        features = self._features(samples)
        if self.sequences.speech is not None and language is None and self.sequences.speech.language is None:
            language = self._found_language(features)
        found = tuple(self._segments(features, language, purpose, timestamps=timestamps, settings=settings))
        tokens = [token for segment in found for token in segment.tokens]
        return Spoken(self._text(tokens), found, language)

    def segments(
        self,
        sound: object,
        *,
        language: str | None = None,
        purpose: str = TRANSCRIBE,
        timestamps: bool = True,
        **settings: Unpack[Settings],
    ) -> Iterator[Segment]:
        """As :meth:`transcribe`, segment by segment as windows are done."""
        features = self._features(read_wave(sound, self.sound.rate))
        yield from self._segments(features, language, purpose, timestamps=timestamps, settings=settings)

    def feed(self, sample: object) -> dict[str, NDArray[np.generic]]:
        """The encoder's input for the first window of a sound."""
        features = self._features(read_wave(sample, self.sound.rate))
        return {self.sound.input: self._window(features, 0) if features.ndim == 2 else features[None]}

    def answer(self, sample: object) -> Spoken:
        """What is said in a sound."""
        return self.transcribe(sample)

    def source_and_target(self, sample: object) -> tuple[dict[str, NDArray[np.generic]], list[int]]:
        """See :class:`SequenceModel`; the language is that of the bundle, or the one that is found."""
        features = self._features(read_wave(sample, self.sound.rate))
        if features.ndim == 1:
            return super().source_and_target(sample)
        feed: dict[str, NDArray[np.generic]] = {self.sound.input: self._window(features, 0)}
        begin = self._begin(self._spoken(features, None), TRANSCRIBE, told=False)
        self.session.encode(feed)
        return feed, self._target(begin)

    @property
    def sound(self) -> Sound:
        """How sound becomes the encoder's input; InputError where the bundle does not say it."""
        return required(self.task.sound, self, "sound")

    # ---- the source --------------------------------------------------------------------------------------------------

    def _features(self, samples: Floats) -> Floats:
        """The whole sound as the encoder takes it: (samples,), or (bands, frames), of a window or more.

        Sound that is no longer than a window is filled up to one; of longer sound every frame is a whole one.
        """
        sound = self.sound
        if sound.length is not None and samples.size > sound.length:
            sound = replace(sound, length=None, frames=None)
        return process_sound(samples, sound)[0]

    def _window(self, features: Floats, start: int) -> Floats:
        """(1, bands, frames) of a window that begins at a frame, filled up with zeros."""
        size = self.sequences.source_length
        piece = features[:, start : start + size]
        return np.pad(piece, ((0, 0), (0, size - piece.shape[1])))[None]

    # ---- the target --------------------------------------------------------------------------------------------------

    def _segments(
        self, features: Floats, language: str | None, purpose: str, *, timestamps: bool, settings: Settings
    ) -> Iterator[Segment]:
        if features.ndim == 1:
            yield from self._of_wave(features, settings)
            return
        size, frames, rate = self.sequences.source_length, features.shape[1], self._frames_a_second
        told = timestamps or frames > size
        speech = self.sequences.speech or Speech()
        begin = self._begin(self._spoken(features, language), purpose, told=told)
        search = self.searched(settings, begin=len(begin))
        times = self._times(speech) if told else None
        position = 0
        while position < frames:
            count = min(size, frames - position)
            self.session.encode({self.sound.input: self._window(features, position)})
            writing = self.write(begin, search, times)
            for _ in writing:
                pass
            tokens = writing.tokens[: -1 if writing.stopped == "end" else None]
            pieces, moved = self._cut(tokens, count)
            offset = position / rate
            for piece, first, last in pieces:
                ended = count / rate if last is None else last * speech.seconds
                yield Segment(self._text(piece), offset + first * speech.seconds, offset + ended, tuple(piece))
            position += moved

    def _of_wave(self, features: Floats, settings: Settings) -> Iterator[Segment]:
        """The one segment of a model that takes sound of any length."""
        begin = list(self.sequences.start)
        search = self.searched(settings, begin=len(begin))
        self.session.encode({self.sound.input: features[None]})
        writing = self.write(begin, search)
        text = writing.text()
        yield Segment(text, 0.0, features.size / self.sound.rate, tuple(writing.tokens))

    def _spoken(self, features: Floats, language: str | None) -> int | None:
        """The token of the language; None where a model has one alone."""
        speech = self.sequences.speech
        if speech is None or not speech.languages:
            if language is not None:
                raise InputError(f"{self.folder} has one language; leave {language!r} out")
            return None
        code = language or speech.language or self._found_language(features)
        if code not in speech.languages:
            raise InputError(
                f"{self.folder} has no language {code!r}; it has {', '.join(sorted(speech.languages)[:12])} …"
            )
        return speech.languages[code]

    def _found_language(self, features: Floats) -> str | None:
        """The likeliest language of the first window, by the token that the decoder would begin with."""
        speech = self.sequences.speech
        if speech is None or not speech.languages or features.ndim == 1:
            return None
        self.session.encode({self.sound.input: self._window(features, 0)})
        logits = self.session.append(self.sequences.start)
        return max(speech.languages, key=lambda code: float(logits[speech.languages[code]]))

    def _begin(self, spoken: int | None, purpose: str, *, told: bool) -> list[int]:
        """What a target begins with: start, language, purpose, and whether times are told."""
        speech = self.sequences.speech or Speech()
        begin = list(self.sequences.start)
        if spoken is not None:
            begin.append(spoken)
        if purpose in speech.purposes:
            begin.append(speech.purposes[purpose])
        elif speech.purposes or purpose != TRANSCRIBE:
            raise InputError(
                f"{self.folder} cannot {purpose!r}; it can {', '.join(sorted(speech.purposes)) or TRANSCRIBE}"
            )
        if told and speech.no_timestamps is None:
            raise InputError(
                f"{self.folder} tells no times, without which sound beyond a window of "
                f"{self.sequences.source_length / self._frames_a_second:g} s cannot be followed; give shorter sound"
            )
        if not told and speech.no_timestamps is not None:
            begin.append(speech.no_timestamps)
        return begin

    def _times(self, speech: Speech) -> Times | None:
        if speech.no_timestamps is None:
            return None
        return Times(speech.no_timestamps, self.sequences.ends[0], speech.latest_first)

    @property
    def _frames_a_second(self) -> float:
        return self.sound.rate / (1 if self.sound.mel is None else self.sound.mel.hop)

    def _text(self, tokens: list[int]) -> str:
        """The text of tokens, those of times left out."""
        speech = self.sequences.speech
        last = None if speech is None else speech.no_timestamps
        return self.tokenizer.decode([token for token in tokens if last is None or token <= last])

    def _cut(self, tokens: list[int], count: int) -> tuple[list[tuple[list[int], int, int | None]], int]:
        """Pieces of a window of ``count`` frames, each with its first and last time, and how many frames are done with.

        Two times side by side end one piece and begin the next. Where the last of them is followed by text, what it
        began is unfinished: it is left to the next window, which begins there.
        """
        speech = self.sequences.speech or Speech()
        if speech.no_timestamps is None:
            return [(tokens, 0, None)], count
        zero = speech.no_timestamps + 1
        is_time = [token >= zero for token in tokens]
        borders = [index + 1 for index in range(len(tokens) - 1) if is_time[index] and is_time[index + 1]]
        alone = is_time[-2:] == [False, True]
        if not borders:
            told = [token - zero for token in tokens if token > zero]
            ends_in_time = [token for token, is_one in zip(tokens, is_time, strict=True) if is_one][-1:] != [zero]
            return [(tokens, 0, told[-1] if told and ends_in_time else None)], count
        if alone:
            borders.append(len(tokens))
        else:
            borders[-1] += 1
        pieces: list[tuple[list[int], int, int | None]] = []
        start = 0
        for number, border in enumerate(borders):
            piece = tokens[start:border]
            last = piece[-1 if number < len(borders) - 1 or alone else -2]
            pieces.append((piece, piece[0] - zero, last - zero))
            start = border
        frames = round((tokens[start - 2] - zero) * speech.seconds * self._frames_a_second)
        return pieces, count if alone or frames <= 0 else frames
