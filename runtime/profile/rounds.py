"""What runs on the device in every pass: the bundle opened on chosen cores, turns timed, samples told as they come."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from edgepress.calls import report
from edgepress.cores import usable_cores
from edgepress.runtime.model import Model, load
from edgepress.runtime.profile.circumstances import Circumstances, Moment, between, read_moment
from edgepress.runtime.profile.system.android import THERMAL_STATUS

_SEED = 0  # of the prompts' random tokens: speed does not depend on them, results must be repeatable
_MOST_WAIT = 600.0  # s for a device to cool
_PAUSE = 1.0


@dataclass(frozen=True)
class Opening:
    """How a pass opens the bundle; JSON values, since it is sent to the device."""

    bundle: str
    threads: int | None
    cores: tuple[int, ...] | None
    context: int
    graph: str | None
    prepared: bool

    def keep_to_cores(self) -> None:
        """Let this process run on the cores that were chosen, as far as the system can do that."""
        if self.cores and hasattr(os, "sched_setaffinity"):
            allowed = os.sched_getaffinity(0)
            os.sched_setaffinity(0, set(self.cores) & allowed or allowed)

    def open(self) -> tuple[Model, float]:
        """Open the bundle on the cores that were chosen; return it and the seconds that it took."""
        self.keep_to_cores()
        start = perf_counter()
        model = load(
            Path(self.bundle),
            threads=self.threads,
            context=self.context,
            graph=self.graph,
            prepared=self.prepared,
        )
        return model, perf_counter() - start

    @property
    def cores_used(self) -> int:
        """How many cores are kept busy."""
        return self.threads or usable_cores()


def opening(arguments: dict[str, Any]) -> Opening:
    """Read it from the arguments of a call."""
    fields = dict(arguments["opening"])
    cores = fields.pop("cores")
    return Opening(**fields, cores=None if cores is None else tuple(cores))


def prompt_of(model: Model, length: int) -> list[int]:
    """Random tokens of the bundle's vocabulary, the same ones every time."""
    return random_tokens(model.config.vocab_size, length)


def random_tokens(vocabulary: int, length: int) -> list[int]:
    """So many of a vocabulary, the same ones every time."""
    return [int(token) for token in np.random.default_rng(_SEED).integers(0, vocabulary, length)]


def tell(
    what: str,
    measured: Mapping[str, Sequence[float]],
    detail: dict[str, Any],
    under: "Under | None" = None,
    *,
    marks: Sequence[str] = (),
) -> None:
    """Send one sample to who asked for this pass; its marks are those of its circumstances and ``marks``."""
    found = under.circumstances if under is not None else None
    report(
        {
            "what": what,
            "measured": {name: list(values) for name, values in measured.items()},
            "detail": detail,
            "circumstances": None if found is None else found.to_json(),
            "marks": [*marks, *(() if found is None else found.marks)],
        }
    )


class Under:
    """Circumstances of a turn, from entering to leaving."""

    def __init__(self, cores_used: int) -> None:
        self._cores_used = cores_used
        self._before: Moment | None = None
        self._after: Moment | None = None

    def __enter__(self) -> "Under":
        self._before = read_moment()
        return self

    def __exit__(self, *_error: object) -> None:
        moment = read_moment()  # and then what takes long: others' work for the answer is not beside the turn
        self._after = replace(moment, thermal_status=THERMAL_STATUS.now())

    @property
    def circumstances(self) -> Circumstances:
        """What lay between."""
        assert self._before is not None
        assert self._after is not None
        return between(self._before, self._after, self._cores_used)


def decode_steps(model: Model, logits: Any, count: int) -> list[float]:
    """Seconds of each of ``count`` greedy steps after ``logits``."""
    steps = []
    for _ in range(count):
        start = perf_counter()
        logits = model.decode(int(logits.argmax()))
        steps.append(perf_counter() - start)
    return steps


def wait_until_cool(celsius: float | None, moment: Callable[[], Moment] = read_moment) -> dict[str, float | None]:
    """Wait until no thermal zone is above ``celsius``, ten minutes at most; return how warm it is, and the wait."""
    start = perf_counter()
    while True:
        zones = moment().celsius
        hottest = max(zones.values(), default=None)
        waited = perf_counter() - start
        if celsius is None or hottest is None or hottest <= celsius or waited > _MOST_WAIT:
            return {"celsius": hottest, "waited_seconds": waited}
        sleep(_PAUSE)
