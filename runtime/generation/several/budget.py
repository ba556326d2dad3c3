"""What several answers may cost together: tokens, seconds, joules."""

from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter

from edgepress.errors import InputError
from edgepress.runtime.machine.energy import open_meters
from edgepress.runtime.machine.metering.recorder import Recorder
from edgepress.runtime.machine.metering.stretches import source_energy
from edgepress.whole import whole_number

_LOOK = 0.2  # seconds between two looks at the energy, which a counter's own steps make hardly finer


@dataclass(frozen=True)
class Budget:
    """Limits; None is without. Joules are what an energy counter of this machine says, whole and not above idle.

    - ``tokens`` that are generated
    - ``seconds`` from the first prompt on
    - ``joules``, by the energy ``source`` of that name, or the first one that this machine has

    Raises:
        InputError: a limit is none.

    """

    tokens: int | None = None
    seconds: float | None = None
    joules: float | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None:
            whole_number("a budget of tokens", self.tokens)
        for name in ("seconds", "joules"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"a budget of {name} is {value}; it must be a positive number")


class Spending:
    """Keeps count of one budget, from entering its context on."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._stack = budget, ExitStack()
        self.tokens = 0
        self._start = self._looked = 0.0
        self._recorder: Recorder | None = None
        self._source = ("", "")
        self._joules = 0.0

    def __enter__(self) -> "Spending":
        if self._budget.joules is not None:
            self._open_meter(self._budget.source)
        self._start = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open_meter(self, name: str | None) -> None:
        opened, reasons = open_meters(None if name is None else [name])
        usable = [(source, meter) for source, meter in opened if any(rail.total for rail in meter.rails)]
        for _, meter in [pair for pair in opened if pair not in usable[:1]]:
            meter.close()
        if not usable:
            why = "; ".join(f"{source}: {reason}" for source, reason in reasons.items())
            raise InputError(f"a budget of joules needs an energy counter, and there is none here ({why})")
        source, meter = usable[0]
        self._recorder = self._stack.enter_context(Recorder([meter]))
        self._source = (source.name, source.measures)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return perf_counter() - self._start

    def joules(self) -> float:
        """Since the beginning, by the counter; 0 without one."""
        if self._recorder is None:
            return 0.0
        now = self._recorder.read_now()
        self._looked = now
        found = source_energy(*self._source, self._recorder.recorded()[0], [(self._start, now)])
        self._joules = found.total[0].value if found.total else 0.0
        return self._joules

    @property
    def tokens_left(self) -> int | None:
        """How many more may be generated; None without a limit."""
        return None if self._budget.tokens is None else self._budget.tokens - self.tokens

    @property
    def tokens_limit(self) -> str:
        """The limit of tokens, in words."""
        return f"{self._budget.tokens} tokens"

    def exceeded(self) -> str | None:
        """Which limit is reached, in words; None: go on."""
        budget = self._budget
        if self.tokens_left == 0:
            return self.tokens_limit
        if budget.seconds is not None and self.seconds >= budget.seconds:
            return f"{budget.seconds:g} seconds"
        if budget.joules is not None and perf_counter() - self._looked >= _LOOK and self.joules() >= budget.joules:
            return f"{budget.joules:g} joules"
        return None
