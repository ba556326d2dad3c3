"""A few hostile inputs of each kind end cleanly, and what judges them sees every way in which they could not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = b"some bytes of a file"
ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fuzzer needs /proc and resource limits")


def test_hostile_inputs_end_cleanly(tmp_path: Path) -> None:
    """More and other inputs: ``python -m tests.fuzz --seconds 600 --seed 5000``."""
    counts = {"bundle": 10, "checkpoint": 10, "adapter": 3, "recipe": 3, "text": 3}
    command = [sys.executable, "-m", "tests.fuzz", "--folder", str(tmp_path), "--json", str(tmp_path / "found.json")]
    asked = [word for kind, count in counts.items() for word in (f"--{kind}", str(count))]
    done = subprocess.run([*command, *asked], cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["findings"] == [], done.stdout
    assert done.returncode == 0, done.stderr
    assert {kind: count["inputs"] for kind, count in found["counts"].items()} == counts


class Panic(BaseException):
    """As pyo3's: no Exception."""


def _allocate() -> int:
    kept = bytearray(3 << 30)
    for place in range(0, len(kept), 4096):
        kept[place] = 1
    return 0


def _raise(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


def _say(text: str, code: int) -> Callable[[], int]:
    def run() -> int:
        print(text, file=sys.stderr)
        return code

    return run


def _kill() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        (lambda: 0, "clean"),
        (_say("edgepress: x is not y; do z", 2), "clean"),
        (_raise(SystemExit(1)), "clean"),
        (_say("something", 2), "noise"),
        (_say("edgepress: " + "x" * 5000, 2), "noise"),
        (_raise(ValueError("x")), "traceback"),
        (_raise(Panic("x")), "traceback"),
        (_raise(SystemExit(9)), "traceback"),
        (_raise(MemoryError()), "memory"),
        (_allocate, "memory"),
        (_kill, "crash"),
        (lambda: time.sleep(1000) or 0, "hang"),
    ],
)
def test_every_way_to_end_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[], int], outcome: str
) -> None:
    from fuzz import judge

    monkeypatch.setattr(judge, "IDLE_SECONDS", 0.5)
    assert judge.judge(run, tmp_path).outcome == outcome


def test_an_endless_loop_is_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz import judge

    def run() -> int:
        while True:
            pass

    monkeypatch.setattr(judge, "CPU_SECONDS", 1)
    assert judge.judge(run, tmp_path).outcome == "hang"


def test_a_seed_makes_the_same_input_each_time() -> None:
    from random import Random

    from fuzz.mutations import mutate_bytes, mutate_json

    content = {"a": {"b": [1, 2, {"c": "x"}]}, "d": 3.5, "e": None}
    for seed in range(50):
        first, second = (mutate_json(content, Random(seed)) for _ in range(2))
        assert first == second
        assert mutate_bytes(b"some bytes of a file", Random(seed)) == mutate_bytes(
            b"some bytes of a file", Random(seed)
        )
    assert len({mutate_json(content, Random(seed)) for seed in range(50)}) > 40
