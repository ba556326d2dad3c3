"""A progress bar on a terminal, and nothing at all in a pipe."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

Advance = Callable[[int], None]
Progress = Callable[[int, str, str], AbstractContextManager[Advance]]  # (total, label, unit) → advance(count)

_WIDTH = 28  # characters of bar
_INTERVAL = 0.1  # seconds between redraws


class _Bar:
    """Draws ``label [####----] 42% 12.3 MB/s about 40 s left`` over itself on stderr, from any thread."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        self._total, self._label, self._unit = max(total, 1), label, unit
        self._done, self._drawn, self._start = 0, 0.0, time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._drawn >= _INTERVAL or self._done >= self._total:
                self._drawn = now
                self._draw(now)

    def _draw(self, now: float) -> None:
        share = min(self._done / self._total, 1.0)
        filled = round(share * _WIDTH)
        rate = self._done / max(now - self._start, 1e-9)
        left = f" about {duration((self._total - self._done) / rate)} left" if 0 < self._done < self._total else ""
        bar = "#" * filled + "-" * (_WIDTH - filled)
        _write(f"\r{self._label} [{bar}] {share:4.0%} {_quantity(rate, self._unit)}/s{left} \x1b[K")


def _write(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone ends no work
        sys.stderr.write(text)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then hours too: ``40 s``, ``7 min``, ``3 h 5 min``."""
    if seconds < 120:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _quantity(value: float, unit: str) -> str:
    for prefix in ("", "k", "M"):
        if value < 1000:
            return f"{value:.1f} {prefix}{unit}"
        value /= 1000
    return f"{value:.1f} G{unit}"


@contextmanager
def progress(total: int, label: str, unit: str = "") -> Iterator[Advance]:
    """Yield ``advance(count)``; the bar is drawn on stderr only when that is a terminal, and erased at the end.

    A terminal that cannot erase (``TERM=dumb``) has none.

    ``total`` and the counts are in ``unit`` (shown with k, M, G before it).
    """
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _count: None
        return
    bar = _Bar(total, label, unit)
    try:
        yield bar.advance
    finally:
        _write("\r\x1b[K")


@contextmanager
def silent(_total: int, _label: str, _unit: str = "") -> Iterator[Advance]:
    """Yield an ``advance`` that draws nothing: what library calls use unless told otherwise."""
    yield lambda _count: None
