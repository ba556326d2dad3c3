"""Timers whose time is over when a test says so, however busy the machine is."""

from collections.abc import Callable

import pytest


class Timers:
    """In the place of ``threading.Timer``, and those that were made of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made: list[Callable[[], None]] = []
        monkeypatch.setattr("threading.Timer", self._make)

    def _make(self, _seconds: float, function: Callable[[], None]) -> "Timers":
        self._made.append(function)
        return self

    def start(self) -> None:
        """Nothing runs by itself."""

    def cancel(self) -> None:
        """So nothing has to be stopped."""

    def end_last(self) -> None:
        """The time of the one that was made last is over."""
        self._made[-1]()
