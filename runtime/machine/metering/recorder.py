"""Reading several meters at once, beside what is measured."""

import threading
from dataclasses import dataclass
from time import perf_counter, sleep
from types import TracebackType

from edgepress.runtime.machine.metering.readings import Meter, Reading, Trace, traces

_INTERVAL = 0.05  # s; reading ten files takes 0.1 ms of a core
_LINGER = 2.5  # s; the slowest program is asked once a second


@dataclass(frozen=True)
class Recorded:
    """What one meter said: a trace a rail, and what was wrong, if anything (then nothing of it can be used)."""

    traces: tuple[Trace, ...]
    trouble: str | None


class Recorder:
    """Reads meters on a thread of its own, from entering its context to leaving it.

    A reading that fails leaves a gap, which the arithmetic prices; a meter that never answered is trouble.
    """

    def __init__(self, meters: list[Meter], interval: float = _INTERVAL) -> None:
        self._meters = meters
        self._interval = interval
        self._readings: list[list[Reading]] = [[] for _ in meters]
        self._failures: list[str | None] = [None] * len(meters)
        self._stop = threading.Event()
        self._reading = threading.Lock()  # meters keep what they read last
        self._thread = threading.Thread(target=self._run, name="edgepress-energy", daemon=True)

    def __enter__(self) -> "Recorder":
        self._until_all_answered(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self._until_all_answered(perf_counter())
        for meter in self._meters:
            meter.close()

    def read_now(self) -> float:
        """Read every meter now, and return this moment: an end of a stretch is exact where it was called."""
        with self._reading:
            moment = perf_counter()
            for index, meter in enumerate(self._meters):
                try:
                    self._readings[index] += meter.read()
                except (OSError, ValueError) as error:
                    self._failures[index] = str(error) or type(error).__name__
        return moment

    def recorded(self) -> list[Recorded]:
        """What each meter said, in the order in which they were given; call it after the context."""
        found = []
        for meter, readings, failure in zip(self._meters, self._readings, self._failures, strict=True):
            trouble = meter.trouble()
            if trouble is None and not readings:
                trouble = f"it gave no reading: {failure or 'nothing was printed'}"
            found.append(Recorded(tuple(traces(meter.rails, readings)), trouble))
        return found

    def _until_all_answered(self, since: float) -> None:
        """Read until each meter that answers has a reading from ``since`` or later: the slow ones are asked seldom."""
        end = perf_counter() + _LINGER
        self.read_now()
        while perf_counter() < end and any(
            failure is None and not (readings and readings[-1].seconds >= since)
            for readings, failure in zip(self._readings, self._failures, strict=True)
        ):
            sleep(self._interval)
            self.read_now()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.read_now()
