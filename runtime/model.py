"""An open bundle: ``load(bundle).generate(prompt)``."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np

from edgepress.adapter_file import adapter_for
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.exchange import read_steady
from edgepress.finite import check_logits
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.first_use import verify_first
from edgepress.runtime.placement import open_accelerator
from edgepress.runtime.sampling import Floats, Indices, Sampling, choose
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import PREFILL_CHUNK, Session, check_tokens
from edgepress.text.tokenizer import Detokenizer, StopStrings, Tokenizer, read_tokenizer
from edgepress.whole import whole_number

_log = logging.getLogger("edgepress.model")

StopReason = Literal["end", "stop", "max_tokens", "context"]


@dataclass
class Timings:
    """Seconds of one generation. ``run`` is the part of ``prefill`` plus ``decode`` spent inside onnxruntime."""

    prefill: float = 0.0
    decode: float = 0.0
    run: float = 0.0


def load(
    bundle: str | Path,
    *,
    threads: int | None = None,
    context: int | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
    prepared: bool = True,
    on: str | None = None,
    soc: str | None = None,
    graph: str | None = None,
    verify: bool = True,
) -> "Model":
    """Open a bundle.

    Args:
        bundle: the directory that an export wrote.
        threads: compute threads; by default one for each core that this process may use.
        context: the most tokens that prompt and answer may have together; by default as many as the
            bundle says, which is fewer than the model allows where the states of that many would take more memory than
            its weights. Memory is taken as tokens come, so a long context costs nothing until it is used.
        prefill_chunk: prompt tokens that are computed at once; larger takes more memory and is hardly faster.
        prepared: start from the prepared form of the weights, making it if there is none yet (see runtime/prepared.py).
        on: a target of the bundle that has graphs of its own (``qnn-htp``), simulated where this machine is not one, or
            ``cpu``; None takes an accelerator that is here and that the bundle was made for, else the CPU.
        soc: with ``on``, the chip.
        graph: which of the bundle's graphs the CPU runs, by its file (``model.onnx``); by default the first in the
            manifest's order whose requirements this processor meets.
        verify: hash the bundle before it is first used, and when a file has changed since (see verified.py); False
            trusts what is there.

    The accelerator's graphs fix context and prefill chunk: ``context`` can only be shorter there.

    Raises:
        InputError: the directory is not a bundle or not as it was written, or a number is out of range.

    """

    def open_whole() -> Model:
        if verify:
            verify_first(Path(bundle))
        config = read_config(Path(bundle), graph)
        accelerated = open_accelerator(Path(bundle), on, soc, graph)
        if accelerated is not None:
            accelerated.context = _checked_context(context, _as_long_as(config, accelerated.context))
            return Model(config, accelerated)
        session = CpuSession(
            config,
            threads=usable_cores() if threads is None else whole_number("threads", threads),
            context=_checked_context(context, config),
            prefill_chunk=whole_number("prefill_chunk", prefill_chunk),
            prepared=prepared,
        )
        return Model(config, session)

    return read_steady(Path(bundle), open_whole)


def _as_long_as(config: BundleConfig, context: int) -> BundleConfig:
    return replace(config, context_length=context, default_context=context)


def _checked_context(context: int | None, config: BundleConfig) -> int:
    if context is None:
        return config.default_context
    found = whole_number("context", context)
    if found > config.context_length:
        raise InputError(f"context is {found}; the model in {config.bundle} allows at most {config.context_length}")
    return found


class Model:
    """An open bundle. It holds one text at a time; two threads must not use it at once.

    ``changes`` counts the calls that changed that text, by which a generation notices that another one has begun.
    """

    def __init__(self, config: BundleConfig, session: Session) -> None:
        self.config = config
        self.session = session
        self.changes = 0
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer, read when first used."""
        if self._tokenizer is None:
            self._tokenizer = read_tokenizer(self.config.bundle)
        return self._tokenizer

    @property
    def context(self) -> int:
        """The most tokens that the cache holds."""
        return self.session.context

    def with_adapter(self, adapter: str | Path | None) -> "Model":
        """The same open bundle with an adapter and a text of its own; None is without one.

        Weights are not loaded again: texts with different adapters go on side by side, each taking memory for its own
        states. Two threads must not use two of them at once.

        Args:
            adapter: a file that ``edgepress adapter`` wrote for a bundle of the same checkpoint.

        Raises:
            InputError: the bundle was not exported with slots for adapters, or the file is not one for them.

        """
        opened = None if adapter is None else adapter_for(self.config.bundle, Path(adapter))
        other = Model(self.config, self.session.with_adapter(opened))
        other._tokenizer = self._tokenizer
        return other

    def reset(self) -> None:
        """Forget the text so far."""
        self.changes += 1
        self.session.reset()

    def prefill(self, tokens: Sequence[int]) -> Floats:
        """Append tokens; return the logits after the last, (vocab,), valid until the next call.

        Raises:
            InputError: there are no tokens, one is not in the vocabulary, they do not fit in the context, or the logits
                are not finite.

        """
        checked = check_tokens(tokens, self.config.vocab_size)
        self.changes += 1
        logits: Floats = self.session.append(checked)[-1]
        check_logits(logits, f"{self.config.bundle}, after {self.session.position} tokens")
        return logits

    def decode(self, token: int) -> Floats:
        """Append one token; return the logits after it, (vocab,), valid until the next call.

        Raises:
            InputError: the token is not in the vocabulary, the context is full, or the logits are not finite.

        """
        most = self.config.vocab_size - 1
        checked = whole_number("the token", token, least=0, most=most, takes=f"the vocabulary has 0 to {most}")
        self.changes += 1
        logits: Floats = self.session.append(np.array([checked]))[-1]
        check_logits(logits, f"{self.config.bundle}, after {self.session.position} tokens, the last {checked}")
        return logits

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> "Generation":
        """Continue ``prompt`` (text, or token ids as they are); iterate over the result to get the text as it comes.

        It ends at an end-of-sequence token of the model, before the first of the ``stop`` strings, after ``max_tokens``
        tokens, or when the context is full. The first piece that is asked for starts a new text; an earlier generation
        that has not ended by then raises an InputError when it is iterated further. For the numbers see
        :class:`Sampling`.

        Raises:
            InputError: the prompt is empty or longer than the context, or a setting is out of its range.

        """
        if max_tokens is not None:
            whole_number("max_tokens", max_tokens)
        sampling = Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        tokens = check_tokens(
            self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt, self.config.vocab_size
        )
        bos = self.config.bos
        if bos is not None and not isinstance(prompt, str) and tokens[:2].tolist() == [bos, bos]:
            _log.warning(
                "the prompt begins with token %d, the beginning of a text, twice; models are trained on one", bos
            )
        self.session.check_room(tokens.size, after=0)
        return Generation(self, tokens.tolist(), sampling, max_tokens, StopStrings(stop))


@dataclass
class Generation(Iterator[str]):
    """Text as it is generated: iterate over it. The attributes below are complete once it has ended.

    - ``tokens``: every token generated, the end-of-sequence token and those of a stop string included
    - ``stop_reason``: ``end`` (the model ended the text), ``stop`` (a stop string), ``max_tokens`` or ``context``
    - ``timings``
    """

    model: Model
    prompt: list[int]
    sampling: Sampling
    max_tokens: int | None
    stops: StopStrings
    tokens: list[int] = field(default_factory=list)
    stop_reason: StopReason | None = None
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        self._pieces = self._generate()
        self._changes: int | None = None  # of the model, when it was last left; None before the first piece

    def __next__(self) -> str:
        if self.stop_reason is None and self._changes not in {None, self.model.changes}:
            raise InputError(
                f"the model began another text after {len(self.tokens)} tokens of this one, and holds one at a time; "
                "take all of a text before the next one is begun, or load the bundle once for each"
            )
        try:
            return next(self._pieces)
        finally:
            self._changes = self.model.changes

    def text(self) -> str:
        """Return all the text that is still to come."""
        return "".join(self)

    def statistics(self) -> str:
        """Return what it took, in one line for a terminal."""
        timings, steps = self.timings, len(self.tokens) - 1  # the first token comes with the prefill
        parts = [f"prompt {len(self.prompt)} tokens in {timings.prefill:.3f} s"]
        if steps > 0:
            parts.append(f"{len(self.tokens)} generated, {steps / timings.decode:.1f} tokens/s")
        return "; ".join(parts) + f"; ended by {self.stop_reason}"

    def _generate(self) -> Iterator[str]:
        """Yield pieces of text; never an empty one."""
        detokenizer = Detokenizer(self.model.tokenizer, self.prompt)
        for token in self._tokens():
            piece = self.stops.push(detokenizer.push(token))
            if self.stops.found is not None:
                self.stop_reason = "stop"
            if piece:
                yield piece
            if self.stops.found is not None:
                return
        rest = self.stops.push(detokenizer.finish())
        if self.stops.found is not None:
            self.stop_reason = "stop"
        else:
            rest += self.stops.finish()
        if rest:
            yield rest

    def _tokens(self) -> Iterator[int]:
        """Yield the tokens that have text; sets ``stop_reason`` when there are no more."""
        model, session = self.model, self.model.session
        generator = np.random.default_rng(self.sampling.seed)
        seen = _Seen(self.prompt, session.context)
        model.reset()
        run_before = session.run_seconds
        start = perf_counter()
        logits = model.prefill(self.prompt)
        self.timings.prefill = perf_counter() - start
        self.timings.run = session.run_seconds - run_before
        while True:
            token = choose(logits, self.sampling, seen.tokens, generator)
            self.tokens.append(token)
            seen.append(token)
            if token in model.config.eos:
                self.stop_reason = "end"
                return
            full = len(self.tokens) == self.max_tokens
            if full or session.position == session.context:
                self.stop_reason = "max_tokens" if full else "context"
                yield token
                return
            yield token
            run_before = session.run_seconds
            start = perf_counter()
            logits = model.decode(token)
            self.timings.decode += perf_counter() - start
            self.timings.run += session.run_seconds - run_before


class _Seen:
    """Prompt and answer so far in one array that grows in place."""

    def __init__(self, prompt: Sequence[int], context: int) -> None:
        self._tokens = np.empty(max(context, len(prompt)) + 1, np.int64)
        self._tokens[: len(prompt)] = prompt
        self._count = len(prompt)

    def append(self, token: int) -> None:
        self._tokens[self._count] = token
        self._count += 1

    @property
    def tokens(self) -> Indices:
        return self._tokens[: self._count]
