"""What runs on the device in every pass: the bundle opened on chosen cores, turns timed, samples told as they come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from edgepress.calls import report
from edgepress.runtime.profile.circumstances import Circumstances, Moment, between, read_moment
from edgepress.runtime.profile.system.android import THERMAL_STATUS
from edgepress.runtime.profile.workloads import find_kind
from edgepress.runtime.profile.workloads.workload import Opening, Workload

_MOST_WAIT = 600.0  # s for a device to cool
_PAUSE = 1.0


def opening(arguments: dict[str, Any]) -> Opening:
    """Read how the bundle is opened from the arguments of a call."""
    fields = dict(arguments["opening"])
    cores = fields.pop("cores")
    return Opening(**fields, cores=None if cores is None else tuple(cores))


def open_workload(how: Opening) -> tuple[Workload, float]:
    """Open the bundle on the cores that were chosen; return it and the seconds that it took."""
    how.keep_to_cores()
    return find_kind(Path(how.bundle)).open(how)


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
