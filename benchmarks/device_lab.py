"""Is a profile right, does it repeat, does a gate fail by accident, and what does measuring cost?

``memory``: what `plan` says that a bundle takes to run, in a process whose own size is measured apart, beside what the
memory pass finds resident. ``limit``: the least memory with which it answers. ``fit``: what a device's figures, fitted
to it by kernels alone, say of the bundle's calls, beside what these take. ``repeats``: profiles of one bundle one after
the other, each pair of consecutive ones compared. ``slowdown``: profiles in turn with ones whose decoded tokens are
really slowed by 5 %. ``in_turn``: the same by ``compare BUNDLE BUNDLE``, and the bundle beside itself. ``gate``: a
bundle held against itself, allowed to lose 5 %, beside a process that keeps a core busy in bursts. ``overhead``: rounds
with and without circumstances being read around each turn.

    python benchmarks/device_lab.py [--only fit gate] [--models demo smollm2-135m] [--timed smollm2-135m] [--first]

Bundles are x86-64's with the recipe int4; models but demo are shapes with random weights. ``--models`` are those of
``memory``, ``limit`` and ``fit``, ``--timed`` the one of the others. What is timed needs a machine that does nothing
else, or ``--first``: root may let the measuring process go ahead of all others. Each sample is kept when it is there;
what is measured anew replaces the same part of the same model. ``--report`` measures nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from common import RESULTS, TARGET, WORK, save
from device_lab_tables import MODELS, PARTS, report
from export_cost import checkpoint
from lab_passes import (
    SLOWER,
    Slowed,
    bare_first,
    roofline_first,
    slowed,
    slowed_first,
    speed_first,
    without_circumstances,
)

from edgepress.calls import Function
from edgepress.exporter import decide, export
from edgepress.exporter.decide.memory import estimates_of, prompt_bytes
from edgepress.runtime.gate.gating import gate
from edgepress.runtime.prepared import prepare
from edgepress.runtime.profile.in_turn import InTurn, long_opening, pairs_of
from edgepress.runtime.profile.passes import roofline, speed
from edgepress.runtime.profile.profiling import profile
from edgepress.runtime.profile.records import Profile
from edgepress.runtime.profile.roofline.fitting import fit, predictions
from edgepress.runtime.profile.rounds import open_workload, opening
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.statistics import Difference, difference
from edgepress.runtime.profile.summary import intervals, kernel_rates, observations

NAME, RECIPE = "device_lab", "int4"
PROMPT, DECODED, CONTEXT = 448, 64, 512  # demo holds no more
TIMED_PROMPT, FIT_PROMPTS, ROUNDS = 64, (64, 256), 8
BUDGET = "[speed]\nthreads = {threads}\ndecode_tokens_per_second = {{ worse_by_most = 0.05 }}\n"
BURSTS = """
import random, time
draw = random.Random(0)
while True:
    end = time.perf_counter() + draw.uniform(0.1, 3)
    while time.perf_counter() < end:
        pass
    time.sleep(draw.uniform(0.1, 3))
"""
"""A neighbour that keeps a core busy for a moment, then none."""


@dataclass(frozen=True)
class Asked:
    """What is measured, how often and on how many threads."""

    models: Sequence[str]
    timed: str
    threads: int
    repeats: int
    slowdowns: int
    gates: int
    overhead_rounds: int
    rounds: int
    seconds: float
    first: bool

    def settings(self, rounds: int | None = None) -> Settings:
        """Of a profile of speed."""
        return Settings(prompt_lengths=(TIMED_PROMPT,), exact_rounds=rounds or self.rounds, threads=self.threads)

    @property
    def speed(self) -> Function:
        """What measures it."""
        return speed_first if self.first else speed.PASS.measure

    @property
    def bare(self) -> Function:
        """The same, without its circumstances."""
        return bare_first if self.first else without_circumstances

    @property
    def slowed(self) -> Function:
        """The same, slowed."""
        return slowed_first if self.first else slowed


def source(model: str) -> str | Path:
    """Its checkpoint."""
    return model if model == "demo" else checkpoint(model)


def bundle(model: str) -> Path:
    """Its bundle, exported once."""
    found = WORK / NAME / model
    if not found.exists():
        export(source(model), out=found, recipe=RECIPE, target=TARGET, context_length=CONTEXT)
        prepare(found)  # which is not what is measured
    return found


def taken(model: str, settings: Settings, of: str, measure: "Function | None" = None) -> Profile:
    """A profile of one pass; ``measure`` takes the place of what the pass ``speed`` measures."""
    changed = speed.PASS if measure is None else replace(speed.PASS, measure=measure)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(speed, "PASS", changed):
        return profile(bundle(model), out=Path(folder) / "profile.jsonl", settings=settings, passes=[of])


def memory(asked: Asked) -> Iterator[dict[str, Any]]:
    """Bytes by the plan, and by the memory pass of each phase of each time that the bundle is opened."""
    settings = Settings(prompt_lengths=(PROMPT,), decode_tokens=DECODED, context=CONTEXT, threads=asked.threads)
    for model in asked.models:
        prepared = decide(source(model), target=TARGET, recipe=RECIPE, context_length=CONTEXT)
        [planned], [graph] = estimates_of(prepared), prepared.make_graphs().values()
        process = taken(model, settings, "roofline").samples("roofline", "process")[0]
        yield {
            "model": model,
            "planned": planned.to_json() | {"prompt": prompt_bytes(graph, planned.kernels, PROMPT)},
            "process_bytes": process.measured["resident_bytes"][0],
            "kernels": process.detail["kernels"],
            "phases": [
                {
                    "phase": sample.what,
                    "repeat": sample.detail["repeat"],
                    **{name: value for name, (value,) in sample.measured.items()},
                }
                for sample in taken(model, settings, "memory").samples("memory")
            ],
        }


def limit(asked: Asked) -> Iterator[dict[str, Any]]:
    """The smallest limit that each survives, and every one that was tried."""
    settings = Settings(prompt_lengths=(TIMED_PROMPT,), decode_tokens=16, threads=asked.threads)
    for model in asked.models:
        found = taken(model, settings, "limit")
        smallest = found.samples("limit", "smallest")
        yield {
            "model": model,
            "limit_bytes": smallest[0].measured["limit_bytes"][0] if smallest else None,
            "trials": [
                {
                    "limit_bytes": trial.measured["limit_bytes"][0],
                    **trial.detail,
                    "error": trial.detail["error"].replace(str(WORK / NAME), "."),
                }
                for trial in found.samples("limit", "trial")
            ],
        }


def fitted(asked: Asked) -> Iterator[dict[str, Any]]:
    """Of each call the seconds that fitted figures say, and those that it took."""
    settings = Settings(prompt_lengths=FIT_PROMPTS, decode_tokens=DECODED, context=CONTEXT, threads=asked.threads,
                        exact_rounds=asked.rounds, prepared=False)  # fmt: skip
    alone = roofline_first if asked.first else roofline.PASS.measure
    changes = [(speed, asked.speed), (roofline, alone)]
    for model in asked.models:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            for module, measure in changes:
                stack.enter_context(mock.patch.object(module, "PASS", replace(module.PASS, measure=measure)))
            found = profile(
                bundle(model), out=Path(folder) / "p.jsonl", settings=settings, passes=["roofline", "speed"]
            )
        figures = fit(found, model)
        compared = predictions(figures, found, intervals(found, "speed"))
        yield {
            "model": model,
            "ahead": asked.first,
            "rates": kernel_rates(found),
            "calls": {name: {"predicted": said, "measured": took} for name, (said, took) in compared.items()},
        }


def repeats(asked: Asked) -> Iterator[dict[str, Any]]:
    """Each profile beside the one before it."""
    before = observations(taken(asked.timed, asked.settings(), "speed", asked.speed), "speed")
    for _ in range(asked.repeats - 1):
        now = observations(taken(asked.timed, asked.settings(), "speed", asked.speed), "speed")
        yield {"model": asked.timed, "ahead": asked.first, **compared(now, before)}
        before = now


def slowdown(asked: Asked) -> Iterator[dict[str, Any]]:
    """A slowed profile beside one that is not, taken just before."""
    for _ in range(asked.slowdowns):
        plain, slow = (
            observations(taken(asked.timed, asked.settings(), "speed", how), "speed")
            for how in (asked.speed, asked.slowed)
        )
        yield {"model": asked.timed, "ahead": asked.first, "slower_by": SLOWER, **compared(slow, plain)}


def in_turn(asked: Asked) -> Iterator[dict[str, Any]]:
    """A slowed text beside one that is not, and one that is not either, a fraction of a second each in turn."""
    told = long_opening(bundle(asked.timed), asked.threads)
    for number in range(2 * asked.slowdowns):
        plain, other = (open_workload(opening({"opening": told}))[0] for _ in range(2))
        slower = SLOWER * (number % 2)
        found = InTurn(plain.repeated.quantity, tuple(pairs_of([plain, Slowed(other, slower)], asked.seconds)))
        ratio = found.ratio
        yield {
            "model": asked.timed,
            "slower_by": slower,
            "seconds": asked.seconds,
            "pairs": found.pairs,
            "ratio": {"ratio": ratio.value, "low": ratio.low, "high": ratio.high},
        }


def gates(asked: Asked) -> Iterator[dict[str, Any]]:
    """A bundle gated against itself beside a neighbour: what came of it, and why."""
    with tempfile.TemporaryDirectory() as folder, neighbour():
        budget = Path(folder) / "budget.toml"
        budget.write_text(BUDGET.format(threads=asked.threads), encoding="utf-8")
        for _ in range(asked.gates):
            (verdict,) = gate(bundle(asked.timed), budget, baseline=bundle(asked.timed)).verdicts
            yield {"model": asked.timed, "outcome": verdict.outcome.value, "because": verdict.because}


def overhead(asked: Asked) -> Iterator[dict[str, Any]]:
    """Seconds of a decoded token by round, in turn with and without circumstances, and their ratio."""
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(asked.overhead_rounds):
        for name, how in (("with", asked.speed), ("without", asked.bare)):
            found = observations(taken(asked.timed, asked.settings(rounds=1), "speed", how), "speed")
            seconds[name] += found["step_seconds at 64"]
    ratio = difference(seconds["with"], seconds["without"])
    yield {"model": asked.timed, "ahead": asked.first, "step_seconds": seconds, "ratio": as_json(ratio)}


def compared(second: Mapping[str, Sequence[float]], first: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Each quantity's ratio, with what it is made from."""
    ratios = {name: as_json(difference(second[name], first[name])) for name in first}
    return {"first": first, "second": second, "ratios": ratios}


def as_json(found: Difference) -> dict[str, Any]:
    """The ratio of two results."""
    return {"ratio": found.ratio, "low": found.low, "high": found.high, "significant": found.significant}


@contextmanager
def neighbour() -> Iterator[None]:
    """Another process that uses the processor in bursts."""
    with subprocess.Popen([sys.executable, "-c", BURSTS]) as child:
        try:
            yield
        finally:
            child.kill()


def keep(part: str, made: Sequence[Mapping[str, Any]]) -> None:
    """Put samples in the place of the same ones of before."""
    anew = {(part, one["model"]) for one in made}
    before = [one for one in read() if (one["part"], one["model"]) not in anew]
    save(NAME, [*before, *({"part": part, **one} for one in made)])


def read() -> list[Mapping[str, Any]]:
    """The samples that there are."""
    path = RESULTS / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def main() -> None:
    """Measure what is asked, keep it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--timed", choices=MODELS, default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20, help="profiles, of which consecutive ones are compared")
    parser.add_argument("--slowdowns", type=int, default=10)
    parser.add_argument("--gates", type=int, default=50)
    parser.add_argument("--overhead-rounds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="fresh processes of each profile")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each comparison in turn")
    parser.add_argument("--first", action="store_true", help="measure ahead of all other processes, as root may")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    given = vars(parser.parse_args())
    only, report_only = given.pop("only"), given.pop("report")
    measures = dict(zip(PARTS, (memory, limit, fitted, repeats, slowdown, in_turn, gates, overhead), strict=True))
    for part in () if report_only else only:
        made: list[dict[str, Any]] = []
        load = os.getloadavg()[0]
        for sample in measures[part](Asked(**given)):
            made.append({"threads": given["threads"], "load_average": load, **sample})
            keep(part, made)
            load = os.getloadavg()[0]
            print(f"{part}: {len(made)}, {sample['model']}", flush=True)
    print(report(read()))


if __name__ == "__main__":
    main()
