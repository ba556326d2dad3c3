"""A bundle profiled on a device: passes one after the other, each sample on disk as it is taken, to be continued."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from edgepress import __version__
from edgepress.bundle.manifest import MANIFEST_NAME, bundle_hash
from edgepress.calls import Call
from edgepress.disk.files import sha256_file
from edgepress.errors import CheckFailed, InputError
from edgepress.modules import modules_in
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.machine.devices import Device, open_device
from edgepress.runtime.machine.devices.describing.description import Description
from edgepress.runtime.profile import passes as _passes
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.records import (
    SCHEMA,
    Ended,
    Header,
    Profile,
    Round,
    Sample,
    Trouble,
    Writer,
    open_profile,
)
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.statistics import enough, interval_of
from edgepress.runtime.profile.summary import observations
from edgepress.runtime.profile.workloads import find_kind, known_kinds
from edgepress.runtime.profile.workloads.workload import Kind

_FIRST = "threads"  # decides what the others run on
_WORTH = 1.03  # more threads have to be this much faster
_MOST_ROUNDS = 40
_BROUGHT = ("native", "inputs")  # settings that name a file here

Told = Callable[[str], None]


def known_passes() -> dict[str, Pass]:
    """Every pass there is a file for, by name, the one that chooses threads first."""
    found = [
        importlib.import_module(f"{_passes.__name__}.{module.name}").PASS for module in modules_in(_passes.__path__)
    ]
    return {item.name: item for item in sorted(found, key=lambda item: (item.name != _FIRST, item.name))}


def profile(
    bundle: str | Path,
    *,
    out: str | Path,
    device: str = "local",
    settings: Settings | None = None,
    passes: Sequence[str] | None = None,
    told: Told = lambda _line: None,
) -> Profile:
    """Measure a bundle on a device into the JSON lines file ``out``; go on where an earlier run of the same stopped.

    Args:
        bundle: the directory that an export wrote, on this machine.
        out: a file that :func:`~edgepress.runtime.profile.records.read_profile` reads.
        device: its name, such as ``local``, ``ssh:board`` or ``adb:SERIAL``.
        settings: what to measure and how well.
        passes: names of passes; by default all.
        told: hears in a line what happens.

    Raises:
        InputError: the bundle, a pass or a setting cannot be used, or ``out`` is a profile of something else.
        EdgepressError: the device cannot be reached, or the link to it is lost; what was measured until then is kept.

    """
    bundle, settings = Path(bundle), settings or Settings()
    kind = find_kind(bundle)
    chosen = _chosen(passes, kind)
    verify_first(bundle)
    settings = _settled(bundle, kind, settings)
    with open_device(device) as reached:
        description = reached.describe(runner=True)
        writer = open_profile(Path(out), _header(bundle, kind, description, settings))
        try:
            there = reached.push(bundle)
            files = {name: getattr(settings, name) for name in _BROUGHT}
            brought = {name: None if file is None else reached.push(Path(file)) for name, file in files.items()}
            run = _Run(reached, description, there, kind, brought, settings, writer, told)
            for item in chosen:
                run.take(item)
        finally:
            writer.close()
    return writer.profile


def _chosen(passes: Sequence[str] | None, kind: Kind) -> list[Pass]:
    known = known_passes()
    for name in passes or ():
        if name not in known:
            raise InputError(f"there is no pass {name!r}; known are {', '.join(known)}")
        if known[name].only not in ("", kind.name):
            raise InputError(f"the pass {name} is for bundles of the kind {known[name].only!r}, not {kind.name!r}")
    return [item for name, item in known.items() if (not item.optional if passes is None else name in passes)]


def _settled(bundle: Path, kind: Kind, settings: Settings) -> Settings:
    """What is asked, checked against the bundle; InputError where something is asked that its kind does not have."""
    default = Settings()
    for name in sorted({name for other in known_kinds() for name in other.settings}.difference(kind.settings)):
        if getattr(settings, name) != getattr(default, name):
            raise InputError(
                f"{bundle} is of the kind {kind.name!r}, which has no {name.replace('_', ' ')}; leave it out, and say "
                f"what is measured by {', '.join(word.replace('_', ' ') for word in kind.settings)}"
            )
    return kind.settle(bundle, settings)


def _header(bundle: Path, kind: Kind, description: Description, settings: Settings) -> Header:
    inputs = None if settings.inputs is None else f"sha256:{sha256_file(Path(settings.inputs))}"  # whatever its name
    return Header(
        schema=SCHEMA,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=bundle.name,
        bundle_hash=bundle_hash(bundle) if (bundle / MANIFEST_NAME).is_file() else None,
        bundle_bytes=sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()),
        device=description.device,
        description=description.to_json(),
        versions={"edgepress": __version__, **description.versions},
        settings=settings.to_json() | {"inputs": inputs},
        kind=kind.name,
    )


@dataclass(frozen=True)
class _Run:
    """One profile being taken: ``there`` is the bundle on the device, ``brought`` what else was brought, by setting."""

    device: Device
    description: Description
    there: str
    kind: Kind
    brought: dict[str, str | None]
    settings: Settings
    writer: Writer
    told: Told

    def take(self, item: Pass) -> None:
        """One pass to its end: rounds until there are enough, each sample written as it comes.

        A pass that fails on the device is noted, and the next one taken; what keeps all of them from going on is
        raised.
        """
        so_far = self.writer.profile
        if so_far.ended(item.name) is not None:
            self.told(f"{item.name}: done before")
            return
        self.told(f"{item.name}: {item.about}")
        began, done = perf_counter(), so_far.rounds(item.name)
        call = Call(item.measure, self._arguments(item))
        while (because := _over(item, so_far, done, perf_counter() - began, self.settings)) is None:
            self.writer.add(Round(of=item.name, round=done, whole=False))
            try:
                self.device.call([call], report=partial(self._keep, item.name, done))
            except CheckFailed as error:
                self.writer.add(Trouble(of=item.name, error=str(error)))
                self.told(f"  not measured: {error}")
                return
            self.writer.add(Round(of=item.name, round=done, whole=True))
            done += 1
            if item.rounds is Rounds.UNTIL_PRECISE:
                self.told(f"  round {done}: {_progress(so_far, item)}")
        self.writer.add(Ended(of=item.name, rounds=done, because=because))

    def _keep(self, of: str, number: int, value: dict[str, Any]) -> None:
        self.writer.add(Sample(of=of, round=number, **value))

    def _arguments(self, item: Pass) -> dict[str, Any]:
        description, settings = self.description, self.settings
        asked = settings.to_json() | self.brought
        fast = description.fast_cores()
        some = 0 < len(fast) < sum(len(cluster.cores) for cluster in description.clusters)
        opening = {
            "bundle": self.there,
            "threads": settings.threads if settings.threads is not None else chosen_threads(self.writer.profile),
            "cores": list(fast) if some else None,
            "context": settings.context or settings.longest,
            "graph": settings.graph,
            "prepared": settings.prepared,
            "work": {name: asked[name] for name in self.kind.settings},
        }
        return {"opening": opening, **{name: asked[name] for name in item.settings}}


def chosen_threads(so_far: Profile) -> int | None:
    """The fewest threads that are within 3 % of the fastest number; None where none was measured."""
    by_count: dict[int, list[float]] = {}
    for sample in so_far.samples(_FIRST):
        [seconds] = sample.measured.values()
        by_count.setdefault(sample.detail["threads"], []).append(median(seconds))
    if not by_count:
        return None
    typical = {count: median(seconds) for count, seconds in by_count.items()}
    return min(count for count, seconds in typical.items() if seconds <= _WORTH * min(typical.values()))


def _over(item: Pass, so_far: Profile, done: int, seconds: float, settings: Settings) -> str | None:
    """Why a pass takes no further round; None where it takes one."""
    if item.rounds is Rounds.ONE:
        return "one round is all there is" if done else None
    asked = settings.exact_rounds or (settings.least_rounds if item.rounds is Rounds.LEAST else None)
    if asked is not None:
        return f"{done} rounds were asked for" if done >= asked else None
    if done < settings.least_rounds:
        return None
    found = observations(so_far, item.name)
    if found and all(enough(values, settings.precision, settings.least_rounds) for values in found.values()):
        return f"every interval is within ±{settings.precision:.1%}"
    if seconds > settings.seconds:
        return f"{settings.seconds:g} s are over"
    return f"{done} rounds are the most that are taken" if done >= _MOST_ROUNDS else None


def _progress(so_far: Profile, item: Pass) -> str:
    widths = {
        name: interval_of(values).half_width
        for name, values in observations(so_far, item.name).items()
        if len(values) > 2
    }
    if not widths:
        return "an interval needs three rounds"
    name = max(widths, key=lambda key: widths[key])
    return f"least certain is {name}, ±{widths[name]:.1%}"
