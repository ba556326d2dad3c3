"""What an encoder-decoder's checkpoint says of how targets are searched for: the task that its bundle has.

``generation_config.json`` says it, and config.json where there is none: transformers wrote it there before. What is
there and changes tokens is read, or noted where it is not implemented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Literal, TypeVar

from edgepress.errors import InputError
from edgepress.exporter.model.encoder_decoders.description import EncoderDecoder
from edgepress.exporter.model.encoder_decoders.families import family
from edgepress.exporter.model.reading import GENERATION, token_ids
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import whole_tokenizer
from edgepress.schema import convert
from edgepress.tasks.sequences import TEXT_TASKS, Search, Sequences, Speech, check_sequences
from edgepress.tasks.task import Edge, Task

TASKS = ("automatic-speech-recognition", *TEXT_TASKS)
# What transformers would do as well, and is not implemented, with the value that does nothing.
_NOT_YET: dict[str, object] = {
    "do_sample": False,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "diversity_penalty": 0.0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "constraints": None,
    "force_words_ids": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
}
_LANGUAGE = re.compile(r"__([a-z]{2,3})__|([a-z]{2,3}_[A-Z]{2})|([a-z]{3}_[A-Z][a-z]{3})")  # M2M-100, mBART, NLLB
_LIKE_WHISPER = re.compile(r"<\|(.{2,20})\|>")
_SOURCE_EDGES = {
    "tokens": ("input_ids", "int64"),
    "mel": ("input_features", "float32"),
    "wave": ("input_values", "float32"),
}
Number = TypeVar("Number", int, float)


def read_task(checkpoint: Checkpoint, model: EncoderDecoder, task: str | None) -> tuple[Task, tuple[str, ...]]:
    """The task of a bundle, and what was passed over, a sentence each; ``task`` is one of :data:`TASKS`, or None.

    Raises:
        InputError: there is no such task, a setting is no number, or a token is not in the vocabulary.

    """
    if task is not None and task not in TASKS:
        raise InputError(f"task {task!r} is none that an encoder-decoder has; there are {', '.join(TASKS)}")
    reader = _Reader(checkpoint, model)
    where = f"{checkpoint.directory / reader.where}: settings of the search"
    sequences = convert(asdict(reader.sequences()), Sequences, where, "correct them there")
    try:
        check_sequences(sequences)
    except ValueError as error:
        raise InputError(f"{where}: {error}; correct them there") from error
    name, kind = _SOURCE_EDGES[model.source]
    free = "samples" if model.source == "wave" else "source"
    shape: tuple[int | str, ...] = (1, free)
    if model.source == "mel":
        shape = (1, model.bands, reader.frames)
    inputs = (
        Edge(name, "float32" if kind == "float32" else "int64", shape),
        Edge("decoder_input_ids", "int64", (1, "target")),
    )
    outputs = (Edge("logits", "float32", (1, "target", model.vocab_size)),)
    chosen = task or family(model.model_type).task
    return Task(chosen, inputs=inputs, outputs=outputs, sequences=sequences), tuple(reader.notes)


class _Reader:
    def __init__(self, checkpoint: Checkpoint, model: EncoderDecoder) -> None:
        self._checkpoint, self._model = checkpoint, model
        self._generation = checkpoint.json(GENERATION)
        self._settings: Mapping[str, object] = self._generation or checkpoint.config
        self.where = GENERATION if self._generation else "config.json"
        self.notes: list[str] = []

    @property
    def frames(self) -> int:
        """Frames of a spectrogram."""
        stride = 1
        for convolution in self._model.convolutions:
            stride *= convolution.stride
        return stride * self._model.source_length

    def sequences(self) -> Sequences:
        """All of it."""
        model, settings = self._model, self._settings
        for key, nothing in _NOT_YET.items():
            value = settings.get(key)
            if value not in (None, nothing):
                self.notes.append(f"{self.where}: {key} = {value!r} is passed over: not implemented")
        start = self._ids("decoder_start_token_id") or self._ids("bos_token_id")
        if not start:
            raise InputError(
                f"{self._checkpoint.directory}: neither {GENERATION} nor config.json has decoder_start_token_id, with "
                "which every target begins; add it"
            )
        return Sequences(
            source=model.source,
            source_length=self.frames if model.source == "mel" else model.source_length,
            context=model.context_length,
            vocabulary=model.vocab_size,
            start=tuple(start[:1]),
            ends=tuple(self._ids("eos_token_id")),
            search=self._search(),
            languages=self._languages(_LANGUAGE),
            prefixes=self._prefixes(),
            speech=self._speech() if model.source == "mel" else None,
        )

    def _search(self) -> Search:
        settings, context = self._settings, self._model.context_length
        new, longest = settings.get("max_new_tokens"), settings.get("max_length")
        most = context
        if isinstance(new, int) and not isinstance(new, bool):
            most = new + 1
        elif isinstance(longest, int) and not isinstance(longest, bool):
            most = longest
        early = settings.get("early_stopping", False)
        stops: dict[object, Literal["no", "yes", "never"]] = {True: "yes", False: "no", None: "no", "never": "never"}
        if not isinstance(early, bool | str | None) or early not in stops:
            raise InputError(f"{self.where}: early_stopping = {early!r} must be true, false or 'never'")
        first, last = self._ids("forced_bos_token_id"), self._ids("forced_eos_token_id")
        return Search(
            beams=self._number("num_beams", 1),
            length_penalty=self._number("length_penalty", 1.0),
            early_stopping=stops[early],
            most_tokens=min(max(most, 2), context),
            fewest_tokens=self._number("min_length", 0),
            no_repeat=self._number("no_repeat_ngram_size", 0),
            repetition_penalty=self._number("repetition_penalty", 1.0),
            suppressed=tuple(self._ids("suppress_tokens")),
            suppressed_first=tuple(self._ids("begin_suppress_tokens")),
            forced_first=first[0] if first else None,
            forced_last=last[0] if last else None,
        )

    def _number(self, key: str, default: Number) -> Number:
        value = self._settings.get(key)
        if value is None:
            return default
        allowed = int | float if isinstance(default, float) else int
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise InputError(f"{self.where}: {key} = {value!r} must be a number; correct it")
        return type(default)(value)

    def _ids(self, key: str) -> list[int]:
        return token_ids(key, self._checkpoint.config, self._generation, self._model.vocab_size)

    def _languages(self, pattern: re.Pattern[str]) -> dict[str, int]:
        """Tokens of languages, by the code that they write."""
        found = {}
        for text, token in whole_tokenizer(self._checkpoint).tokens.items():
            match = pattern.fullmatch(text)
            if match is not None and token < self._model.vocab_size:
                found[next(filter(None, match.groups()))] = token
        return found

    def _prefixes(self) -> dict[str, str]:
        """Words that T5's tasks begin with, as its config has them."""
        tasks = self._checkpoint.config.get("task_specific_params")
        found = {}
        for name, settings in (tasks if isinstance(tasks, dict) else {}).items():
            prefix = settings.get("prefix") if isinstance(settings, dict) else None
            if isinstance(prefix, str) and 0 < len(name) <= 100 and len(prefix) <= 200:
                found[name] = prefix
        return found

    def _speech(self) -> Speech:
        """What Whisper's generation config has besides."""
        settings = self._settings
        languages = self._tokens_of("lang_to_id")
        language = settings.get("language")
        no_timestamps = self._ids("no_timestamps_token_id")
        latest = settings.get("max_initial_timestamp_index")
        smoothing = self._checkpoint.config.get("median_filter_width")
        named = {match.group(1): token for text, token in languages.items() if (match := _LIKE_WHISPER.fullmatch(text))}
        if isinstance(language, str):
            language = match.group(1) if (match := _LIKE_WHISPER.fullmatch(language)) else language
        return Speech(
            languages=named,
            purposes=self._tokens_of("task_to_id"),
            language=language if isinstance(language, str) and language in named else None,
            no_timestamps=no_timestamps[0] if no_timestamps else None,
            latest_first=latest if isinstance(latest, int) and not isinstance(latest, bool) else None,
            alignment=self._model.alignment,
            smoothing=smoothing if type(smoothing) is int else Speech().smoothing,
        )

    def _tokens_of(self, key: str) -> dict[str, int]:
        """A table of tokens by words."""
        table = self._settings.get(key)
        if table is None:
            return {}
        size = self._model.vocab_size
        if not isinstance(table, dict) or any(
            isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size for token in table.values()
        ):
            raise InputError(f"{self.where}: {key} must be an object of tokens of the vocabulary of {size}; correct it")
        return dict(table)
