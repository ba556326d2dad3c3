"""Measuring a bundle of an encoder and a decoder: reading a source, and each token of targets of it.

Raw samples are kept; :func:`format_sequence_measurement` averages for the eye. The source and the tokens are random:
what they are changes no shape.
"""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import numpy as np

from edgepress.bundle.manifest import bundle_hash, read_manifest
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.runtime.machine.host import Host, read_host, versions
from edgepress.runtime.machine.memory import Memory, read_memory
from edgepress.runtime.sequences.opening import open_session
from edgepress.runtime.sequences.sources import made_up_source
from edgepress.runtime.sessions.session import RanOn
from edgepress.whole import whole_number


@dataclass(frozen=True)
class SequenceMeasurement:
    """One run of :func:`bench_sequences`: raw samples, and what they were taken on.

    A source has ``source`` tokens, frames or samples. ``encode_seconds`` are of whole sources, ``token_seconds`` of
    single steps of ``beams`` targets side by side, turn after turn.
    """

    bundle: str
    bundle_sha256: str
    started: str
    host: Host
    versions: dict[str, str]
    ran_on: RanOn
    threads: int
    source: int
    tokens: int
    beams: int
    load_seconds: float
    warmup_encode_seconds: tuple[float, ...]
    encode_seconds: tuple[float, ...]
    token_seconds: tuple[tuple[float, ...], ...]
    before_load: Memory
    after_load: Memory
    after_runs: Memory

    def to_json(self) -> dict[str, object]:
        """Everything, as JSON has it."""
        return asdict(self)


def bench_sequences(
    bundle: Path,
    *,
    source: int | None = None,
    tokens: int = 64,
    beams: int = 1,
    repetitions: int = 5,
    warmup: int = 1,
    threads: int | None = None,
    on: str | None = None,
    soc: str | None = None,
) -> SequenceMeasurement:
    """Open a bundle, read random sources and write random targets.

    Args:
        bundle: a directory that an export wrote, of a model of an encoder and a decoder.
        source: tokens or samples of a source whose length is free: 64 tokens or 5 s when None.
        tokens: steps of each target, fewer where the decoder has not so many positions.
        beams: targets side by side.
        repetitions: turns that are measured.
        warmup: turns before them, kept apart.
        threads: compute threads; one for each usable core when None.
        on: what computes, as :func:`edgepress.runtime.load` has it: ``cpu``, a target of the bundle, or what is here.
        soc: with ``on``, the chip to run or simulate.

    Raises:
        InputError: it is no such bundle, a number is not at least 1 (``warmup``: 0), or the bundle was not made for
            ``on`` or ``soc``.

    """
    numbers = {"tokens": (tokens, 1), "beams": (beams, 1), "repetitions": (repetitions, 1), "warmup": (warmup, 0)}
    for name, (number, least) in numbers.items():
        whole_number(name, number, least=least)
    threads = usable_cores() if threads is None else whole_number("threads", threads)
    manifest = read_manifest(bundle)
    task = manifest.task
    if task is None or task.sequences is None:
        raise InputError(f"{bundle} has no encoder and decoder")
    started, before = datetime.now(UTC).isoformat(timespec="seconds"), read_memory()
    start = perf_counter()
    session = open_session(bundle, task, manifest.states, threads=threads, on=on, soc=soc)
    load, after = perf_counter() - start, read_memory()
    feed = made_up_source(replace(task, sequences=session.sequences), source)
    tokens = min(tokens, session.sequences.context - 1)
    draw = np.random.default_rng(0).integers(0, task.sequences.vocabulary, (tokens, beams))
    encoded, steps = [], []
    for _ in range(warmup + repetitions):
        start = perf_counter()
        session.encode(feed)
        encoded.append(perf_counter() - start)
        session.append(task.sequences.start)
        session.spread(beams)
        seconds = []
        for row in draw[: tokens - len(task.sequences.start) + 1]:
            start = perf_counter()
            session.step(row)
            seconds.append(perf_counter() - start)
        steps.append(tuple(seconds))
    return SequenceMeasurement(
        bundle=str(bundle),
        bundle_sha256=bundle_hash(bundle),
        started=started,
        host=read_host(),
        versions=versions("onnxruntime", "numpy"),
        ran_on=session.ran_on,
        threads=threads,
        source=next(iter(feed.values())).shape[-1],
        tokens=len(steps[0]),
        beams=beams,
        load_seconds=load,
        warmup_encode_seconds=tuple(encoded[:warmup]),
        encode_seconds=tuple(encoded[warmup:]),
        token_seconds=tuple(steps[warmup:]),
        before_load=before,
        after_load=after,
        after_runs=read_memory(),
    )


def format_sequence_measurement(found: SequenceMeasurement) -> str:
    """Averages of a measurement, as lines for a terminal."""
    encode = np.median(found.encode_seconds) * 1e3
    steps = np.concatenate([np.array(turn) for turn in found.token_seconds]) if found.tokens else np.zeros(1)
    beams = "" if found.beams == 1 else f", {found.beams} beams"

    def megabytes(count: int | None) -> str:
        return "unknown" if count is None else f"{count / 1e6:,.1f} MB"

    return "\n".join(
        [
            f"{found.bundle} on {found.host.cpu}, threads {found.threads}",
            f"  ran on         {found.ran_on.beside_times()}",
            f"  load           {found.load_seconds:.3f} s",
            f"  encode         {encode:.2f} ms (p50 of {len(found.encode_seconds)}) for a source of {found.source:,}",
            f"  decode         {1 / np.median(steps):.1f} tokens/s (p50 of {steps.size}){beams}",
            f"  memory peak    {megabytes(found.after_runs.peak_rss)} resident, of which "
            f"{megabytes(found.before_load.rss)} before the bundle was loaded",
            f"  memory steady  {megabytes(found.after_runs.rss)} resident",
        ]
    )
