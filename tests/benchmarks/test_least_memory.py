"""The least memory of three tools: its row of made-up samples, and what a limit that is too small comes to."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(name="least")
def _least(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("least_memory")


def test_a_row_has_every_figure_or_says_that_none_was_found(least: ModuleType) -> None:
    sample = {"shape": "s", "tool": "t", "name": "n", "bytes": 3e8, "peak_bytes": 5e8, "anonymous_bytes": 5e7}
    limits = {"RLIMIT_DATA": {"limit_bytes": 4e8}, "RLIMIT_AS": {"limit_bytes": None}}
    row = least.report([{**sample, "limits": limits}]).splitlines()[2]
    assert row == "| s shape, random weights | t | n | 300 | 500 | 50 | 400 | none found |"


@pytest.mark.parametrize("kind", ["RLIMIT_DATA", "RLIMIT_AS"])
def test_a_limit_holds_what_a_tool_allocates(least: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A tool that takes 64 MB answers under a limit that has room for them, and not under one that has not."""

    def answer(_tool: str, _path: Path) -> None:
        assert len(bytearray(64 << 20)) == 64 << 20

    monkeypatch.setattr(least, "answer", answer)
    assert least.survives("t", Path(), kind, 1 << 40) == (True, "")
    survived, _ = least.survives("t", Path(), kind, 1 << 20)
    assert not survived
