"""How a bundle of an encoder and a decoder turns a source into a target, as data: the entry ``sequences`` of a task.

The encoder's graph reads a whole source once; the decoder's writes the target a token at a time, and which tokens it
may write, how many ways are followed side by side, and when it ends is said here. Words and meanings are those of
transformers' ``generation_config.json``, from which an export reads them.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from edgepress.schema import Count

Token = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Tokens = Annotated[tuple[Token, ...], msgspec.Meta(max_length=4096)]
_Place = Annotated[int, msgspec.Meta(ge=0, le=4096)]
_File = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.onnx$")]
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Words = Annotated[dict[_Word, Token], msgspec.Meta(max_length=10_000)]

TEXT_TASKS = ("summarization", "text2text-generation", "translation")
"""Tasks of an encoder and a decoder that take a text and write another."""
ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"
SOURCE_MASK = "source_mask"
"""The input of static graphs that closes positions of the source which are filled up, (1, 1, 1, source)."""
QUERIES = "queries.{layer}"
"""The decoder's output with what a layer asks of the source, (1, targets · sequence, heads · head_dim)."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How targets are searched for.

    - ``beams``: ways that are followed side by side (Graves 2012); 1 is greedy
    - ``length_penalty`` p: a finished way's score is its log-probability / length^p
    - ``early_stopping``: ``yes`` ends when there are as many finished ways as beams, ``no`` when the best open way,
      scored at its present length, is no better than the worst of them, ``never`` when none could become better
    - ``most_tokens``, ``fewest_tokens``: of a target, those that it begins with counted
    - ``no_repeat``: no sequence of so many tokens occurs twice; 0 is off (Paulus et al. 2017)
    - ``repetition_penalty``: of every token of the target so far (Keskar et al. 2019); 1 is off
    - ``suppressed``: tokens that are never chosen; ``suppressed_first``: not as the first one
    - ``forced_first``: the first token that is chosen; ``forced_last``: the one that is chosen where a target is full
    """

    beams: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    length_penalty: Annotated[float, msgspec.Meta(ge=-100, le=100)] = 1.0
    early_stopping: Literal["no", "yes", "never"] = "no"
    most_tokens: Count
    fewest_tokens: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 0
    no_repeat: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    suppressed: Tokens = ()
    suppressed_first: Tokens = ()
    forced_first: Token | None = None
    forced_last: Token | None = None


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What a model of Whisper's kind (Radford et al. 2022) is told before it writes, and how it tells times.

    The target begins with a token of its language and one of what to do, ``transcribe`` or ``translate`` (to English);
    a model of English alone has neither. Then ``no_timestamps``, or tokens of times from the next one on, ``seconds``
    apart: the first of them at most number ``latest_first``. ``alignment`` names heads, each by its layer and its
    number there, that look at the place in the sound which is being said; ``smoothing`` is how many positions of it a
    median is taken over.
    """

    languages: _Words = field(default_factory=dict)
    purposes: _Words = field(default_factory=dict)
    language: _Word | None = None
    no_timestamps: Token | None = None
    latest_first: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] | None = None
    seconds: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.02
    alignment: Annotated[tuple[tuple[_Place, _Place], ...], msgspec.Meta(max_length=4096)] = ()
    smoothing: Annotated[int, msgspec.Meta(ge=1, le=1001)] = 7

    @property
    def aligned_layers(self) -> tuple[int, ...]:
        """The layers of :attr:`alignment`."""
        return tuple(sorted({layer for layer, _ in self.alignment}))


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """An encoder, a decoder, and how they are used.

    ``source`` is what the encoder's one input is: ``tokens``, a ``mel`` spectrogram or a ``wave`` of samples at
    ``rate`` Hz; it has at most ``source_length`` tokens, or frames of a spectrogram, 0 for any number.
    A target begins with ``start``, ends with one of ``ends`` and has at most ``context`` tokens of a ``vocabulary``.
    ``languages`` has the token of each language that a translation may be into or from. ``prefixes`` are words that a
    source begins with, by what is asked for (T5's ``summarize: ``).
    """

    source: Literal["tokens", "mel", "wave"]
    source_length: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 0
    rate: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 16000
    context: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    vocabulary: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    start: Annotated[tuple[Token, ...], msgspec.Meta(min_length=1, max_length=64)]
    ends: Annotated[tuple[Token, ...], msgspec.Meta(max_length=64)]
    search: Search
    languages: _Words = field(default_factory=dict)
    prefixes: Annotated[dict[_Word, Annotated[str, msgspec.Meta(max_length=200)]], msgspec.Meta(max_length=100)] = (
        field(default_factory=dict)
    )
    speech: Speech | None = None
    encoder: _File = ENCODER_FILE
    decoder: _File = DECODER_FILE

    @property
    def graphs(self) -> tuple[str, str]:
        """The files of its graphs."""
        return self.encoder, self.decoder


def check_sequences(sequences: Sequences) -> None:
    """Raise a ValueError unless every token is one of the vocabulary, and a target has room for what it begins with."""
    search, speech = sequences.search, sequences.speech or Speech()
    named = {
        "start": sequences.start,
        "ends": sequences.ends,
        "suppressed": search.suppressed,
        "suppressed_first": search.suppressed_first,
        "forced": tuple(token for token in (search.forced_first, search.forced_last) if token is not None),
        "languages": (*sequences.languages.values(), *speech.languages.values()),
        "purposes": tuple(speech.purposes.values()),
        "no_timestamps": () if speech.no_timestamps is None else (speech.no_timestamps,),
    }
    for what, tokens in named.items():
        if tokens and max(tokens) >= sequences.vocabulary:
            raise ValueError(f"{what} has the token {max(tokens)}; the vocabulary has {sequences.vocabulary}")
    if len(sequences.start) >= sequences.context or search.most_tokens > sequences.context:
        raise ValueError(
            f"a target begins with {len(sequences.start)} tokens and may have {search.most_tokens}; the decoder has "
            f"{sequences.context} positions"
        )
    if speech.language is not None and speech.language not in speech.languages:
        raise ValueError(f"language {speech.language} has no token")
