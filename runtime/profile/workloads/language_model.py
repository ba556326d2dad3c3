"""A language model: a prompt, then a token after the other, always the most likely one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgepress.bundle.states import state_bytes
from edgepress.errors import InputError
from edgepress.runtime.config import read_config
from edgepress.runtime.measures.counting.operators import read_profile
from edgepress.runtime.model import Model, load
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.workloads.workload import DECODE, Kind, Opening, Part, Timed, Workload
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Floats

_PROMPT_LENGTHS = (64, 256)
_SEED = 0  # of the prompts' random tokens: speed does not depend on them, results must be repeatable
_REPEATS = 8  # steps whose nodes are timed


class Text(Workload):
    """Prompts of some lengths, and what is decoded after one."""

    first = Part("prefill", "ttft_seconds", "prefilled", "length")
    then = DECODE

    def __init__(self, model: Model, opening: Opening) -> None:
        self._model, self._context = model, opening.context
        self.sizes = tuple(sorted(opening.work["prompt_lengths"]))
        self._size = self.sizes[0]
        self._logits: Floats | None = None

    @property
    def ran_on(self) -> str:
        """What computes."""
        return str(self._model.session.ran_on)

    def begin(self, size: int) -> list[float]:
        """Forget the text and prefill a prompt of ``size`` tokens, to its first token."""
        prompt, self._size = random_tokens(self._model.config.vocab_size, size), size
        self._model.reset()
        start = perf_counter()
        self._logits = self._model.prefill(prompt)
        self._logits.argmax()
        return [perf_counter() - start]

    def steps(self, count: int) -> list[float]:
        """Decode."""
        seconds = []
        for _ in range(count):
            if self._logits is None or self._model.session.position >= self._context:
                self.begin(self._size)
            assert self._logits is not None
            start = perf_counter()
            self._logits = self._model.decode(int(self._logits.argmax()))
            seconds.append(perf_counter() - start)
        return seconds

    def units(self, part: Part) -> tuple[str, int]:
        """Tokens: those of the longest prompt, or one."""
        return part.what, self.sizes[-1] if part is self.first else 1

    def held(self) -> dict[str, Any]:
        """Tokens of the text, and the bytes that the manifest's states take for them."""
        tokens = self._model.session.position
        return {"tokens": tokens, "state_bytes": state_bytes(self._model.config.states, tokens)}

    @property
    def run_seconds(self) -> float:
        """Seconds spent inside onnxruntime until now."""
        return self._model.session.run_seconds


def random_tokens(vocabulary: int, length: int) -> list[int]:
    """So many of a vocabulary, the same ones every time."""
    return [int(token) for token in np.random.default_rng(_SEED).integers(0, vocabulary, length)]


def _settle(bundle: Path, settings: Settings) -> Settings:
    lengths = settings.prompt_lengths or _PROMPT_LENGTHS
    config, longest = read_config(bundle, settings.graph), max(lengths) + settings.decode_tokens
    if longest > config.context_length:
        raise InputError(
            f"a prompt of {max(lengths)} tokens and {settings.decode_tokens} decoded ones are more "
            f"than the {config.context_length} that {bundle} allows; give shorter ones"
        )
    return replace(settings, prompt_lengths=lengths)


def _open(opening: Opening) -> tuple[Workload, float]:
    start = perf_counter()
    model = load(
        Path(opening.bundle),
        threads=opening.threads,
        context=opening.context,
        graph=opening.graph,
        prepared=opening.prepared,
    )
    return Text(model, opening), perf_counter() - start


def _operators(opening: Opening, folder: Path) -> Iterator[Timed]:
    """The longest prompt, prefilled once after a warm-up, and steps after it."""
    config, length = read_config(Path(opening.bundle), opening.graph), max(opening.work["prompt_lengths"])
    session = CpuSession(
        config,
        threads=opening.cores_used,
        context=opening.context,
        prepared=opening.prepared,
        prefill_chunk=length,
        profile=folder / "profile",
    )
    model = Model(config, session)
    prompt = random_tokens(config.vocab_size, length)
    for _ in range(2):
        model.reset()
        logits = model.prefill(prompt)
    for _ in range(min(_REPEATS, opening.work["decode_tokens"])):
        logits = model.decode(int(logits.argmax()))
    runs = read_profile(session.end_profile())
    yield Timed(Text.first, length, runs[1:2])
    yield Timed(Text.then, length, runs[3:] or runs[2:])  # the first step warms up, where there is another


KIND = Kind(
    name="language model",
    suits=lambda task: task is None,
    settings=("prompt_lengths", "decode_tokens", "context", "graph", "native"),
    settle=_settle,
    open=_open,
    operators=_operators,
)
