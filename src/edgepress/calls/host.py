"""The side that asks: calls written down, the process that carries them out started and watched, answers read."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgepress.calls.guest import Answer, Arrays, Function, read_arrays, write_arrays
from edgepress.errors import CheckFailed, InputError

Report = Callable[[dict[str, Any]], None]

_TAIL = 3  # lines of a crash that are shown
_MOST_ERRORS = 64 << 10  # bytes that are kept of what a process says on standard error
_KEYS = frozenset({"done", "report", "error", "ended"})  # of lines; "ended" is a shell's, which started the guest
_SHELL = 128  # what a shell adds to the number of the signal that ended a program
_SIGKILL = 9  # which Windows has no name for
_KILLED = (-_SIGKILL, _SHELL + _SIGKILL)


class RunnerDied(CheckFailed):
    """The process ended before it was done; ``answers`` are of those calls that were."""

    def __init__(self, message: str, answers: Sequence[Answer] = ()) -> None:
        super().__init__(message)
        self.answers = list(answers)


class RunnerHung(RunnerDied):
    """It did not end in the time that it was given, and was stopped."""


class RunnerKilled(RunnerDied):
    """SIGKILL ended it: nearly always the system, which was out of memory."""


@dataclass(frozen=True)
class Call:
    """A function of a module (not a lambda) to call there, with JSON values and arrays."""

    function: Function
    arguments: dict[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


@dataclass
class Ended:
    """How a process ended: its exit code, whether its time was over, what it said, line by line, and its errors."""

    code: int
    late: bool
    lines: list[dict[str, Any]]
    errors: str

    @property
    def answered(self) -> list[dict[str, Any]]:
        """Of each call that was carried out, in order, its ``value`` and the names of its ``arrays``."""
        return [line for line in self.lines if "done" in line]

    @property
    def code_there(self) -> int | None:
        """The exit code as a shell told it that had started the guest; None where it could not."""
        return next((int(line["ended"]) for line in self.lines if "ended" in line), None)

    @property
    def raised(self) -> dict[str, Any] | None:
        """What a function raised there, if one did."""
        return next((line for line in self.lines if "error" in line), None)


def run_in_folder(
    command: Sequence[str | Path],
    folder: Path,
    calls: Sequence[Call],
    *,
    where: str,
    environment: Mapping[str, str],
    report: Report | None = None,
    timeout: float | None = None,
) -> list[Answer]:
    """Call functions in a process that sees ``folder``, which is this machine's; ``command`` takes its name last.

    ``where`` is what messages call the place; ``timeout`` is in seconds, of all calls together.

    Raises:
        InputError: a function raised it there.
        CheckFailed: a function raised it there; :class:`RunnerHung`, :class:`RunnerKilled` or :class:`RunnerDied`, with
            the answers until then, when the process ended early.

    """
    write_calls(folder, calls)
    ended = converse([*command, folder], environment=environment, report=report, timeout=timeout)
    answers = [
        (line["value"], read_arrays(folder / f"out-{number}.npz", line["arrays"]))
        for number, line in enumerate(ended.answered)
    ]
    raise_early_end(ended, len(calls), answers, where, timeout)
    return answers


def write_calls(folder: Path, calls: Sequence[Call]) -> None:
    """Write what the guest is to do."""
    listed = [
        {
            "function": f"{call.function.__module__}:{call.function.__qualname__}",
            "arguments": call.arguments,
            "arrays": write_arrays(folder / f"in-{number}.npz", call.arrays) if call.arrays else [],
        }
        for number, call in enumerate(calls)
    ]
    (folder / "calls.json").write_text(json.dumps(listed), encoding="utf-8")


def read_answers(folder: Path, calls: Sequence[Call]) -> list[Answer]:
    """Read what a guest left in ``answers.json``; raise what it raised."""
    try:
        answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckFailed("the emulated program ended without an answer") from error
    raise_error(answers)
    done = answers["done"]
    assert len(done) == len(calls)
    return [
        (entry["value"], read_arrays(folder / f"out-{number}.npz", entry["arrays"]))
        for number, entry in enumerate(done)
    ]


def raise_error(answers: dict[str, Any]) -> None:
    """Raise what a function raised there."""
    if "error" in answers:
        raise (CheckFailed if answers["failed"] else InputError)(answers["error"])


def converse(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    report: Report | None = None,
    timeout: float | None = None,
) -> Ended:
    """Start the guest by ``command``, hear it out, and say how it ended; nothing of it is left running."""
    process = subprocess.Popen(
        command,
        env=None if environment is None else dict(environment),
        stdin=subprocess.PIPE,  # held open: its end would end the guest
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors = bytearray()

    def keep_errors(stream: Any) -> None:
        while piece := os.read(stream.fileno(), 1 << 16):
            errors.extend(piece)
            del errors[:-_MOST_ERRORS]

    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(process)

    reader = threading.Thread(target=keep_errors, args=(process.stderr,), daemon=True)
    reader.start()
    watch = threading.Timer(timeout, stop) if timeout is not None else None
    lines: list[dict[str, Any]] = []
    try:
        if watch is not None:
            watch.start()
        for raw in process.stdout:
            line = _read_line(raw)
            if line is None:
                errors.extend(raw)
            elif "report" not in line:
                lines.append(line)
            elif report is not None:
                report(line["report"])
        process.wait()
        reader.join()
    finally:
        if watch is not None:
            watch.cancel()
        _kill(process)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return Ended(process.returncode, late.is_set(), lines, errors.decode("utf-8", "replace"))


def _read_line(raw: bytes) -> dict[str, Any] | None:
    """A line of the guest's; None of what is none, such as what a shell or a loader prints."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.keys() & _KEYS else None


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, _SIGKILL)
        else:
            process.kill()


def raise_early_end(ended: Ended, calls: int, answers: Sequence[Answer], where: str, timeout: float | None) -> None:
    """Raise what a function raised, or that the process ended before all ``calls`` were answered."""
    if ended.raised is not None:
        raise_error(ended.raised)
    if ended.late:
        raise RunnerHung(f"the program did not end on {where} within {timeout:g} s", answers)
    if ended.code in _KILLED:
        raise RunnerKilled(
            f"the program was killed on {where} (SIGKILL) after {len(answers)} of {calls} calls: nearly always the "
            "system, out of memory; free some, or take a smaller model or context",
            answers,
        )
    if ended.code:
        raise RunnerDied(f"the program died on {where}{reason(ended.code, ended.errors)}", answers)
    if len(answers) < calls:
        raise RunnerDied(f"the program ended on {where} after {len(answers)} of {calls} calls", answers)


def reason(code: int, errors: str) -> str:
    """An exit code in words, and the last that was said."""
    number = -code if code < 0 else code - _SHELL if code > _SHELL else 0
    known = number in {entry.value for entry in signal.Signals}
    name = f" by signal {signal.Signals(number).name}" if known else f" with exit code {code}"
    lines = errors.strip().splitlines()[-_TAIL:]
    return ": ".join([name, " / ".join(lines)]) if lines else name
