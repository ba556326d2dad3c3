"""Measuring a bundle on the machine that runs it: time, memory and energy, with the raw samples kept.

What is measured, in order: memory before anything is loaded; the time to load; for each prompt length, some warm-up
prefills (kept apart) and then ``repetitions`` of prefill; then decoding after the longest prompt, greedy, one token a
step. Nothing is averaged here: :func:`format_measurement` does that for the eye, whoever reads the JSON does it anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgepress.bundle.states import state_bytes
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.runtime.config import read_config
from edgepress.runtime.graph_file.saturation import saturation_warnings
from edgepress.runtime.machine.energy import open_meters
from edgepress.runtime.machine.host import Host, read_host, versions
from edgepress.runtime.machine.memory import Memory, read_memory
from edgepress.runtime.machine.metering.recorder import Recorder
from edgepress.runtime.machine.metering.stretches import SourceEnergy, source_energy
from edgepress.runtime.model import Model, load
from edgepress.runtime.placement import find_places
from edgepress.runtime.sessions.session import PREFILL_CHUNK, RanOn
from edgepress.terminal.counts import counted
from edgepress.whole import whole_number

SCHEMA_VERSION = 3
_MOST_REASONS = 3  # on a terminal
_SEED = 0  # of the prompts' random tokens: speed does not depend on them, results must be repeatable


@dataclass(frozen=True)
class Settings:
    """What is measured and how; InputError where that is not possible. ``energy`` None is every source there is."""

    threads: int
    context: int
    prompt_lengths: tuple[int, ...]
    decode_tokens: int
    repetitions: int
    warmup: int
    prefill_chunk: int
    prepared: bool
    energy: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("context", 1), ("decode_tokens", 1), ("repetitions", 1), ("warmup", 0),
                            ("prefill_chunk", 1)):  # fmt: skip
            whole_number(name, getattr(self, name), least=least)
        if not self.prompt_lengths:
            raise InputError("there are no prompt lengths; give at least one, or None for the default")
        for length in self.prompt_lengths:
            whole_number("a prompt length", length)
        if max(self.prompt_lengths) + self.decode_tokens > self.context:
            raise InputError(
                f"a prompt of {max(self.prompt_lengths)} tokens and {self.decode_tokens} decoded ones do not fit "
                f"in the context of {self.context}"
            )


@dataclass(frozen=True)
class PrefillSamples:
    """Seconds from handing over a prompt of ``length`` tokens until its first token is chosen: the TTFT, one a turn."""

    length: int
    seconds: tuple[float, ...]
    warmup_seconds: tuple[float, ...]


@dataclass(frozen=True)
class DecodeSamples:
    """Seconds of each decode step after a prompt of ``prompt_length`` tokens; one inner tuple a repetition.

    A step chooses a token and computes the logits after it. ``run_seconds`` is the part of each repetition spent inside
    onnxruntime; the rest is this runtime's own.
    """

    prompt_length: int
    step_seconds: tuple[tuple[float, ...], ...]
    run_seconds: tuple[float, ...]
    warmup_step_seconds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class EnergySamples:
    """Energy of each decode repetition by every source that is open, idle power in it; why the others give none."""

    decode: tuple[SourceEnergy, ...]
    unavailable: dict[str, str]


@dataclass(frozen=True)
class MemorySamples:
    """Memory of the process at four moments; ``after_decode`` is the steady state, its ``peak_rss`` the peak."""

    before_load: Memory
    after_load: Memory
    after_prefill: Memory
    after_decode: Memory


@dataclass(frozen=True)
class Measurement:
    """One run of :func:`bench`: raw samples, and what they were taken on.

    ``prepared_from`` is the prepared form that the weights came from; without one it is None, and
    ``not_prepared_because`` has the reason unless nobody asked for it. The time to make one, when there was none yet,
    is in ``load_seconds``. ``ran_on`` says what computed: the CPU, an accelerator or its simulation. ``cache_bytes`` is
    not measured: it is what the model's states take at the longest text here, by their list. ``warnings`` are
    how sessions that edgepress does not open would compute differently on this processor.
    """

    schema_version: int
    bundle: str
    bundle_hash: str | None
    started: str
    host: Host
    ran_on: RanOn
    versions: dict[str, str]
    settings: Settings
    load_seconds: float
    prepared_from: str | None
    not_prepared_because: str | None
    prefill: tuple[PrefillSamples, ...]
    decode: DecodeSamples
    memory: MemorySamples
    energy: EnergySamples
    cache_bytes: int
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


def bench(
    bundle: str | Path,
    *,
    prompt_lengths: Sequence[int] | None = None,
    decode_tokens: int = 64,
    repetitions: int = 5,
    warmup: int = 1,
    threads: int | None = None,
    context: int | None = None,
    prefill_chunk: int | None = None,
    prepared: bool = True,
    on: str | None = None,
    soc: str | None = None,
    graph: str | None = None,
    energy: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Measure a bundle in this process. Memory is the process's, so a fresh process gives the clean figure.

    Args:
        bundle: the directory that an export wrote.
        prompt_lengths: prompts to prefill, in tokens; by default 64 and 256, or what the context leaves of them.
        decode_tokens: steps of each decode repetition.
        repetitions: turns of each prompt length, and of decoding.
        warmup: turns before these, which are kept apart.
        threads: see :func:`load`.
        context: see :func:`load`.
        prefill_chunk: see :func:`load`.
        prepared: see :func:`load`.
        on: see :func:`load`; an accelerator's graphs hold the context and the chunk that they were made for.
        soc: see :func:`load`.
        graph: see :func:`load`.
        energy: names of energy sources; by default all that this machine has.
        progress: called with the number of turns done since the last call; there are :func:`bench_turns`.

    Raises:
        InputError: the bundle cannot be used, or the prompts and steps do not fit in its context.

    """
    started, before = datetime.now(UTC).isoformat(timespec="seconds"), read_memory()
    if prompt_lengths is None:
        prompt_lengths = default_prompt_lengths(bundle, decode_tokens, context, on=on, soc=soc, graph=graph)
    settings = Settings(
        threads=usable_cores() if threads is None else threads,
        context=_longest_context(Path(bundle), on, soc, graph) if context is None else context,
        prompt_lengths=tuple(prompt_lengths),
        decode_tokens=decode_tokens,
        repetitions=repetitions,
        warmup=warmup,
        prefill_chunk=PREFILL_CHUNK if prefill_chunk is None else prefill_chunk,
        prepared=prepared,
        energy=None if energy is None else tuple(energy),
    )
    start = perf_counter()
    model = load(
        bundle,
        threads=threads,
        context=settings.context,
        prefill_chunk=prefill_chunk,
        prepared=prepared,
        on=on,
        soc=soc,
        graph=graph,
    )
    settings = replace(settings, threads=model.threads)
    loaded = _Loaded(str(bundle), started, before, perf_counter() - start)
    return _measure(model, loaded, settings, progress or (lambda _turns: None))


@dataclass(frozen=True)
class _Loaded:
    """What is known of a measurement once the bundle is open."""

    bundle: str
    started: str
    before: Memory
    seconds: float


def _measure(model: Model, loaded: _Loaded, settings: Settings, done: Callable[[int], None]) -> Measurement:
    after_load, session, longest = read_memory(), model.session, max(settings.prompt_lengths)
    settings = replace(settings, prefill_chunk=session.prefill_chunk)
    prefill = tuple(_measure_prefill(model, length, settings, done) for length in settings.prompt_lengths)
    after_prefill = read_memory()
    decode, energy = _measure_decode(model, longest, settings, done)
    return Measurement(
        schema_version=SCHEMA_VERSION,
        bundle=loaded.bundle,
        bundle_hash=_bundle_hash(model.config.bundle),
        started=loaded.started,
        host=read_host(),
        ran_on=session.ran_on,
        versions=versions("onnxruntime", "numpy", "tokenizers"),
        settings=settings,
        load_seconds=loaded.seconds,
        prepared_from=None if session.prepared.directory is None else str(session.prepared.directory),
        not_prepared_because=session.prepared.reason or None,
        prefill=prefill,
        decode=decode,
        memory=MemorySamples(loaded.before, after_load, after_prefill, read_memory()),
        energy=energy,
        cache_bytes=state_bytes(session.states, longest + settings.decode_tokens),
        warnings=saturation_warnings(model.config.bundle),
    )


def bench_turns(prompt_lengths: Sequence[int], repetitions: int, warmup: int) -> int:
    """How many turns :func:`bench` takes: each prompt length and decoding, warm-up included."""
    return (len(prompt_lengths) + 1) * (repetitions + warmup)


def default_prompt_lengths(
    bundle: str | Path,
    decode_tokens: int,
    context: int | None = None,
    *,
    on: str | None = None,
    soc: str | None = None,
    graph: str | None = None,
) -> tuple[int, ...]:
    """64 and 256 tokens, as far as they fit with the tokens to decode where the bundle runs."""
    room = (_longest_context(Path(bundle), on, soc, graph) if context is None else context) - decode_tokens
    return tuple(length for length in (64, 256) if length <= room) or (max(1, room),)


def _longest_context(bundle: Path, on: str | None, soc: str | None, graph: str | None) -> int:
    """What the graphs hold that will run: an accelerator's often less than the CPU's."""
    config = read_config(bundle, graph)  # which says what is no bundle
    places = find_places(bundle, on, soc, graph)
    return places[0].context if places else config.context_length


def _prompt(model: Model, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(_SEED).integers(0, model.config.vocab_size, length)]


def _measure_prefill(model: Model, length: int, settings: Settings, done: Callable[[int], None]) -> PrefillSamples:
    prompt = _prompt(model, length)
    seconds = []
    for _ in range(settings.warmup + settings.repetitions):
        model.reset()
        start = perf_counter()
        model.prefill(prompt).argmax()
        seconds.append(perf_counter() - start)
        done(1)
    return PrefillSamples(length, tuple(seconds[settings.warmup :]), tuple(seconds[: settings.warmup]))


def _measure_decode(
    model: Model, length: int, settings: Settings, done: Callable[[int], None]
) -> tuple[DecodeSamples, EnergySamples]:
    prompt = _prompt(model, length)
    opened, unavailable = open_meters(settings.energy)
    turns = []
    with Recorder([meter for _, meter in opened]) as recorder:
        for _ in range(settings.warmup + settings.repetitions):
            model.reset()
            turns.append(_decode_turn(model, prompt, settings.decode_tokens, recorder))
            done(1)
    measured = turns[settings.warmup :]
    samples = DecodeSamples(
        prompt_length=length,
        step_seconds=tuple(turn.steps for turn in measured),
        run_seconds=tuple(turn.run for turn in measured),
        warmup_step_seconds=tuple(turn.steps for turn in turns[: settings.warmup]),
    )
    stretches = [turn.stretch for turn in measured]
    energies = []
    for (source, _), recorded in zip(opened, recorder.recorded(), strict=True):
        try:
            energies.append(source_energy(source.name, source.measures, recorded, stretches))
        except InputError as error:
            unavailable[source.name] = str(error)
    return samples, EnergySamples(tuple(energies), unavailable)


@dataclass(frozen=True)
class _Turn:
    steps: tuple[float, ...]
    run: float
    stretch: tuple[float, float]


def _decode_turn(model: Model, prompt: list[int], count: int, recorder: Recorder) -> _Turn:
    logits = model.prefill(prompt)
    steps = []
    began = recorder.read_now()
    run = model.session.run_seconds
    for _ in range(count):
        start = perf_counter()
        logits = model.decode(int(logits.argmax()))
        steps.append(perf_counter() - start)
    run = model.session.run_seconds - run
    return _Turn(tuple(steps), run, (began, recorder.read_now()))


def _bundle_hash(bundle: Path) -> str | None:
    """SHA-256 of the manifest, which has every file's hash; None for a bundle that edgepress did not make."""
    from edgepress.bundle.manifest import MANIFEST_NAME, bundle_hash

    return bundle_hash(bundle) if (bundle / MANIFEST_NAME).is_file() else None


def format_measurement(measurement: Measurement) -> str:
    """Averages of a measurement, as lines for a terminal."""
    settings, decode, memory = measurement.settings, measurement.decode, measurement.memory
    lines = [
        f"{measurement.bundle} on {measurement.host.cpu}, {counted(settings.threads, 'thread')}",
        f"  ran on         {measurement.ran_on.beside_times()}",
        f"  load           {measurement.load_seconds:.3f} s, {_origin(measurement)}",
    ]
    for prefill in measurement.prefill:
        median = float(np.median(prefill.seconds))
        lines.append(
            f"  prefill {prefill.length:>6} {prefill.length / median:,.1f} tokens/s, first token after "
            f"{_milliseconds(median)} (median of {len(prefill.seconds)})"
        )
    steps = np.concatenate([np.asarray(turn) for turn in decode.step_seconds])  # (repetitions · steps,)
    p50, p95, p99 = np.quantile(steps, (0.5, 0.95, 0.99))
    lines += [
        f"  decode         {1 / steps.mean():,.1f} tokens/s after {decode.prompt_length} tokens; a token takes "
        f"{_milliseconds(p50)} (p50), {_milliseconds(p95)} (p95), {_milliseconds(p99)} (p99)",
        f"  own overhead   {1 - sum(decode.run_seconds) / steps.sum():.1%} of a step is outside onnxruntime",
        f"  memory peak    {_megabytes(memory.after_decode.peak_rss)} resident, of which "
        f"{_megabytes(memory.before_load.rss)} before the bundle was loaded",
        f"  memory steady  {_megabytes(memory.after_decode.rss)} resident, {_megabytes(memory.after_decode.pss)} "
        f"proportional (PSS), {_megabytes(memory.after_decode.anonymous)} anonymous",
        f"  cache          {_megabytes(measurement.cache_bytes)} at "
        f"{max(settings.prompt_lengths) + settings.decode_tokens:,} tokens, computed from the bundle's list of states",
        *(f"  energy         {line}" for line in _energy(measurement.energy, settings)),
        *(f"  warning        {warning}" for warning in measurement.warnings),
    ]
    return "\n".join(lines)


def _origin(measurement: Measurement) -> str:
    if measurement.prepared_from is not None:
        return "from the prepared form"
    because = measurement.not_prepared_because
    return "from the bundle itself" + (f": {because}" if because else "")


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.1f} MB"


def _energy(energy: EnergySamples, settings: Settings) -> list[str]:
    if not energy.decode:
        if len(energy.unavailable) > _MOST_REASONS:
            return [f"not measured: none of {len(energy.unavailable)} counters is here; --json has why"]
        return [f"not measured: {'; '.join(f'{name}: {reason}' for name, reason in energy.unavailable.items())}"]
    lines = []
    for source in energy.decode:
        if source.total is None:
            lines.append(f"by rail alone, none of which is the whole ({source.name}: {source.measures})")
            continue
        joules = [turn.per(settings.decode_tokens) for turn in source.total]
        mean = sum(turn.value for turn in joules) / len(joules)
        error = sum(turn.error for turn in joules) / len(joules)  # of one repetition: they share what is not by chance
        lines.append(
            f"{mean:.3g} ± {error:.1g} J per decoded token, idle power in it ({source.name}: {source.measures})"
        )
    return lines
