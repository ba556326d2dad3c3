"""Bars on a terminal count down."""

import io
from itertools import pairwise

import pytest

from edgepress.terminal import progress
from edgepress.terminal.progress import duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (119, "119 s"), (120, "2 min"), (3600, "60 min"), (11_100, "3 h 5 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_bar_says_how_long_it_will_still_take(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, clock = Terminal(), [0.0]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.progress(100, "distilling", " steps") as advance:
        for _ in range(4):
            clock[0] += 10.0
            advance(25)
    drawn = [line for line in terminal.getvalue().split("\r") if "distilling" in line]
    left = [int(line.split("about ")[1].split(" s left")[0]) for line in drawn[:-1]]
    assert left == [30, 20, 10]
    assert all(before > after for before, after in pairwise(left))
    assert "left" not in drawn[-1]
