"""Programs that print what a meter shows: once when asked, or line by line for as long as they run."""

import shutil
import subprocess
import threading
from time import perf_counter, sleep

from edgepress.runtime.machine.metering.readings import Unavailable

_TIMEOUT = 5.0  # s


class Printed:
    """A program that is run anew for every reading, at most every ``pause`` seconds."""

    def __init__(self, command: tuple[str, ...], pause: float) -> None:
        self._command = command
        self._pause = pause
        self._next = 0.0

    def text(self) -> str | None:
        """What it prints now; None where it was asked less than ``pause`` seconds ago.

        Raises:
            OSError: it cannot be started, does not end within 5 s, or fails.

        """
        if perf_counter() < self._next:
            return None
        self._next = perf_counter() + self._pause
        return output_of(self._command)


def output_of(command: tuple[str, ...]) -> str:
    """Run a program and return its standard output.

    Raises:
        OSError: it cannot be started, does not end within 5 s, or fails; the message has its first line of complaint.

    """
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} did not answer within {_TIMEOUT:g} s") from None
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(
            f"{' '.join(command)} failed with exit code {done.returncode}: {complaint[0] if complaint else ''}"
        )
    return done.stdout


class Lines:
    """A program that prints a line at every sample, from :meth:`start` until it is closed."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._lines: list[tuple[float, str]] = []
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"edgepress-{command[0]}", daemon=True)
        self._reader.start()

    def take(self) -> list[tuple[float, str]]:
        """Return the lines since the last call, each with the ``perf_counter`` at which it came."""
        with self._lock:
            lines, self._lines = self._lines, []
        return lines

    def first(self, timeout: float = _TIMEOUT) -> str:
        """Wait for a first line, which stays to be taken; empty where there is none within ``timeout`` seconds."""
        end = perf_counter() + timeout
        while perf_counter() < end:
            over = not self._reader.is_alive()  # asked first: its last line is there by then
            with self._lock:
                if self._lines:
                    return self._lines[0][1]
            if over:
                break
            sleep(0.01)
        return ""

    def close(self) -> None:
        """Stop the program."""
        self._process.terminate()
        try:
            self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._lock:
                self._lines.append((perf_counter(), line))


def missing(program: str, of: str) -> Unavailable | None:
    """Why ``program`` cannot be run: it is not on the PATH (it comes with ``of``); None where it is."""
    return None if shutil.which(program) else Unavailable(f"there is no {program} (it comes with {of})")
