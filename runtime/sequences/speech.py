"""Speech into text by an encoder and a decoder: Whisper's windows of 30 s, and models that take sound of any length.

Longer sound goes through a model of Whisper's kind in windows, as transformers does it: the target tells times, a
window ends at the last time that was told as the end of a piece of text, and the next one begins there (Radford et al.
2022, section 3.8).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.sound import process_sound
from edgepress.processing.waves import read_wave
from edgepress.runtime.sequences.fallback import Fallback, believed
from edgepress.runtime.sequences.model import SequenceModel, Settings
from edgepress.runtime.sequences.rules import Times
from edgepress.runtime.sequences.targets import SequenceSession
from edgepress.runtime.sequences.windows import Piece, cut_window
from edgepress.runtime.sequences.words import Word, token_starts, words_of
from edgepress.runtime.tasks.kinds import required
from edgepress.tasks.sequences import Speech
from edgepress.tasks.sound import Sound
from edgepress.tasks.task import Task

Floats = NDArray[np.float32]
TRANSCRIBE = "transcribe"


@dataclass(frozen=True)
class Segment:
    """A piece of text, and when it is said, in seconds from the start of the sound; ``tokens`` are those of times too.

    ``end`` is the end of the sound where no time was told. ``words`` are there where they are asked for.
    """

    text: str
    start: float
    end: float
    tokens: tuple[int, ...]
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a sound: see :meth:`SpeechModel.transcribe`."""

    language: str | None = None
    purpose: str = TRANSCRIBE
    timestamps: bool = False
    words: bool = False
    fallback: Fallback | None = None


@dataclass(frozen=True)
class Spoken:
    """What is said, its segments, and in which language where a model has several."""

    text: str
    segments: tuple[Segment, ...]
    language: str | None = None


class SpeechModel(SequenceModel):
    """``transcribe(sound)``, and ``segments(sound)`` as they come."""

    takes = "a WAV file"

    def __init__(self, task: Task, session: SequenceSession, folder: Path) -> None:
        super().__init__(task, session, folder)
        self.asked = Asked()
        """What :meth:`answer` asks of a sound."""

    def transcribe(
        self,
        sound: object,
        *,
        language: str | None = None,
        purpose: str = TRANSCRIBE,
        timestamps: bool = False,
        words: bool = False,
        fallback: Fallback | None = None,
        **settings: Unpack[Settings],
    ) -> Spoken:
        """What is said in a sound.

        Args:
            sound: a path or the bytes of a WAV file, or samples as an array, with their rate as a tuple where it is not
                the model's.
            language: the code of what is spoken; found by the model where it is None and there are several.
            purpose: ``transcribe``, or ``translate`` into English where the model can.
            timestamps: whether to tell times; sound that is longer than a window needs them anyway.
            words: whether to tell when each word is said, where the model has heads that follow the sound.
            fallback: when a window is drawn again, or is silence; without it what is written first is kept.
            settings: of the search.

        Raises:
            InputError: the sound cannot be read or is too short, there is no such language or purpose, or a setting is
                out of its range.

        """
        asked = Asked(language=language, purpose=purpose, timestamps=timestamps, words=words, fallback=fallback)
        return self._spoken_in(sound, asked, settings)

    def _spoken_in(self, sound: object, asked: Asked, settings: Settings) -> Spoken:
        samples = read_wave(sound, self.sound.rate)
        features = self._features(samples)
        speech = self.sequences.speech
        if speech is not None and asked.language is None and speech.language is None:
            asked = replace(asked, language=self._found_language(features))
        found = tuple(self._segments(features, samples.size, asked, settings))
        tokens = [token for segment in found for token in segment.tokens]
        return Spoken(self._text(tokens), found, asked.language)

    def segments(
        self,
        sound: object,
        *,
        language: str | None = None,
        purpose: str = TRANSCRIBE,
        timestamps: bool = True,
        words: bool = False,
        fallback: Fallback | None = None,
        **settings: Unpack[Settings],
    ) -> Iterator[Segment]:
        """As :meth:`transcribe`, segment by segment as windows are done."""
        samples = read_wave(sound, self.sound.rate)
        asked = Asked(language=language, purpose=purpose, timestamps=timestamps, words=words, fallback=fallback)
        yield from self._segments(self._features(samples), samples.size, asked, settings)

    def feed(self, sample: object) -> dict[str, NDArray[np.generic]]:
        """The encoder's input for the first window of a sound."""
        features = self._features(read_wave(sample, self.sound.rate))
        return {self.sound.input: self._window(features, 0) if features.ndim == 2 else features[None]}

    def answer(self, sample: object) -> Spoken:
        """What is said in a sound, as :attr:`asked` says."""
        return self._spoken_in(sample, self.asked, {})

    def source_and_target(self, sample: object) -> tuple[dict[str, NDArray[np.generic]], list[int]]:
        """See :class:`SequenceModel`; the language is that of the bundle, or the one that is found."""
        features = self._features(read_wave(sample, self.sound.rate))
        if features.ndim == 1:
            return super().source_and_target(sample)
        feed: dict[str, NDArray[np.generic]] = {self.sound.input: self._window(features, 0)}
        begin = self._begin(self._language(features, None), TRANSCRIBE, told=False)
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

    def _segments(self, features: Floats, samples: int, asked: Asked, settings: Settings) -> Iterator[Segment]:
        speech = self.sequences.speech or Speech()
        if asked.words and not speech.alignment:
            raise InputError(
                f"{self.folder} names no heads that tell when words are said (alignment_heads of "
                "generation_config.json); ask for timestamps, or export a checkpoint that names some"
            )
        if features.ndim == 1:
            if asked.fallback is not None:
                raise InputError(f"{self.folder} takes sound of any length at once, without fallback; leave it out")
            yield from self._of_wave(features, settings)
            return
        size, frames, rate = self.sequences.source_length, features.shape[1], self._frames_a_second
        told = asked.timestamps or frames > size
        language = self._language(features, asked.language)
        begin = self._begin(language, asked.purpose, told=told)
        search = self.searched(settings, begin=len(begin))
        times = self._times(speech) if told else None
        heard = -(-samples * rate // self.sound.rate)  # frames that have sound
        position = number = 0
        while position < frames:
            count = min(size, frames - position)
            self.session.encode({self.sound.input: self._window(features, position)})
            tokens = believed(self, begin, search, times=times, fallback=asked.fallback, window=number)
            number += 1
            if tokens is None:
                position += count
                continue
            starts = None
            if asked.words:
                starts = token_starts(self.session, speech, begin, tokens, int(heard - position) // 2)
            kept = tokens[:-1] if tokens[-1] in self.sequences.ends else tokens
            pieces, moved = cut_window(kept, speech, count, rate)
            for piece in pieces:
                segment = self._segment(kept, piece, position / rate, count / rate)
                if starts is not None:
                    segment = replace(segment, words=self._words(kept, piece, starts + position / rate, language))
                yield segment
            position += moved

    def _segment(self, tokens: list[int], piece: Piece, offset: float, window: float) -> Segment:
        """A piece of a window that begins at ``offset`` seconds and is ``window`` seconds long."""
        seconds, own = (self.sequences.speech or Speech()).seconds, tokens[piece.start : piece.stop]
        end = window if piece.last is None else piece.last * seconds
        return Segment(self._text(own), offset + piece.first * seconds, offset + end, tuple(own))

    def _words(
        self, tokens: list[int], piece: Piece, starts: NDArray[np.float64], language: int | None
    ) -> tuple[Word, ...]:
        speech = self.sequences.speech or Speech()
        most = len(tokens) if speech.no_timestamps is None else speech.no_timestamps
        kept = [index for index in range(piece.start, piece.stop) if tokens[index] <= most]
        codes = {token: code for code, token in speech.languages.items()}
        text = [tokens[index] for index in kept]
        return words_of(
            text,
            [float(starts[index]) for index in kept],
            [float(starts[index + 1]) for index in kept],
            self.tokenizer.decode,
            None if language is None else codes[language],
        )

    def _of_wave(self, features: Floats, settings: Settings) -> Iterator[Segment]:
        """The one segment of a model that takes sound of any length."""
        begin = list(self.sequences.start)
        search = self.searched(settings, begin=len(begin))
        self.session.encode({self.sound.input: features[None]})
        writing = self.write(begin, search)
        text = writing.text()
        yield Segment(text, 0.0, features.size / self.sound.rate, tuple(writing.tokens))

    def _language(self, features: Floats, language: str | None) -> int | None:
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
