"""A model of an encoder and a decoder: a source is read to the first token of its target, then token follows token."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgepress.bundle.manifest import Manifest, read_manifest
from edgepress.bundle.states import state_bytes
from edgepress.errors import InputError
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.measures.counting.operators import read_profile
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.workloads.workload import DECODE, Kind, Opening, Part, Timed, Workload
from edgepress.runtime.sequences.session import EncoderDecoder
from edgepress.runtime.sequences.sources import made_up_source, source_size
from edgepress.runtime.sessions.session import Floats
from edgepress.tasks.sequences import Sequences
from edgepress.tasks.task import Task

_REPEATS = 8  # steps whose nodes are timed


class Source(Workload):
    """Made-up sources of some lengths, and targets of one."""

    first = Part("encode", "ttft_seconds", "encoded", "length")
    then = DECODE

    def __init__(self, manifest: Manifest, session: EncoderDecoder, lengths: list[int]) -> None:
        self._session, self._states, task = session, manifest.states, _task(manifest)
        self._sources = {source_size(feed): feed for feed in (made_up_source(task, length) for length in lengths)}
        self.sizes = tuple(sorted(self._sources))
        self._size = self.sizes[0]
        self._logits: Floats | None = None

    @property
    def ran_on(self) -> str:
        """What computes: for such bundles always the CPU."""
        return "CPU"

    def begin(self, size: int) -> list[float]:
        """Encode a source of ``size``, and compute the first token of its target."""
        self._size = size
        start = perf_counter()
        self._session.encode(self._sources[size])
        self._logits = self._session.append(self._session.sequences.start)
        self._logits.argmax()
        return [perf_counter() - start]

    def steps(self, count: int) -> list[float]:
        """Write tokens of one target."""
        seconds = []
        for _ in range(count):
            if self._logits is None or self._session.position >= self._session.sequences.context:
                self.begin(self._size)
            assert self._logits is not None
            start = perf_counter()
            self._logits = self._session.step(np.array([self._logits.argmax()]))[0]
            seconds.append(perf_counter() - start)
        return seconds

    def units(self, part: Part) -> tuple[str, int]:
        """One source, one token."""
        return part.what, 1

    def held(self) -> dict[str, Any]:
        """The source's size, and tokens of the target with the bytes of the decoder's own states for them."""
        tokens = self._session.position
        own = [state for state in self._states if state.kind != "encoded"]
        return {"length": self._size, "tokens": tokens, "state_bytes": state_bytes(own, tokens)}

    @property
    def run_seconds(self) -> float:
        """Seconds spent inside onnxruntime until now."""
        return self._session.encode_seconds + self._session.decode_seconds


def _task(manifest: Manifest) -> Task:
    assert manifest.task is not None
    return manifest.task


def _sequences(manifest: Manifest) -> Sequences:
    sequences = _task(manifest).sequences
    assert sequences is not None
    return sequences


def _settle(bundle: Path, settings: Settings) -> Settings:
    manifest = read_manifest(bundle)
    sequences, lengths = _sequences(manifest), settings.prompt_lengths or (None,)
    target = len(sequences.start) + settings.decode_tokens
    if target > sequences.context:
        raise InputError(
            f"a target of {settings.decode_tokens} tokens after the {len(sequences.start)} that it begins with is more "
            f"than the {sequences.context} positions of {bundle}; decode fewer"
        )
    made = {length: source_size(made_up_source(_task(manifest), length)) for length in lengths}
    for asked, size in made.items():
        if asked not in (None, size):
            raise InputError(f"a source of {asked} tokens is longer than the {size} that {bundle} reads; give fewer")
    return replace(settings, prompt_lengths=tuple(made.values()))


def _session(opening: Opening, profile: Path | None = None) -> tuple[Manifest, EncoderDecoder]:
    bundle = Path(opening.bundle)
    verify_first(bundle)
    manifest = read_manifest(bundle)
    session = EncoderDecoder(bundle, _sequences(manifest), manifest.states, threads=opening.cores_used, profile=profile)
    return manifest, session


def _open(opening: Opening) -> tuple[Workload, float]:
    start = perf_counter()
    manifest, session = _session(opening)
    seconds = perf_counter() - start
    return Source(manifest, session, opening.work["prompt_lengths"]), seconds


def _operators(opening: Opening, folder: Path) -> Iterator[Timed]:
    """The longest source, read once after a warm-up, and steps after its target's beginning."""
    manifest, session = _session(opening, folder / "profile")
    source = Source(manifest, session, [max(opening.work["prompt_lengths"])])
    [length] = source.sizes
    for _ in range(2):
        source.begin(length)
    source.steps(min(_REPEATS, opening.work["decode_tokens"]))
    encoder, decoder = (read_profile(path) for path in session.end_profile())
    yield Timed(Source.first, length, encoder[1:])
    yield Timed(Source.then, length, decoder[3:] or decoder[2:])  # the first step warms up, where there is another


KIND = Kind(
    name="encoder-decoder",
    suits=lambda task: task is not None and task.sequences is not None,
    settings=("prompt_lengths", "decode_tokens"),
    settle=_settle,
    open=_open,
    operators=_operators,
)
