"""Programs that are killed in the middle: each runs in a child of one process that has imported what they need.

Importing torch and the exporter takes longer than what these programs do.
"""

import json
import os
import signal
import subprocess
import sys

# It computes nothing itself: no thread runs when it forks.
_SERVER = """
import json, os, sys
import torch
import edgepress.exporter.learn.calibration.run
import edgepress.exporter.learn.pruning.run
import edgepress.exporter.methods.kinds
import edgepress.runtime.measures.evaluate

for line in sys.stdin:
    program, words = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            print(os.getpid(), flush=True)
            sys.argv = ["-c", *words]
            exec(program, {"__name__": "__main__"})
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


class Killing:
    """The process that forks; made once a session, when first used."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def kill_at_its_word(self, program: str, *words: object) -> None:
        """Run ``program`` with ``words`` as its arguments, and kill it when it prints ``here``."""
        if self._server is None:
            command = [sys.executable, "-c", _SERVER]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._server.stdin is not None
        print(json.dumps([program, [str(word) for word in words]]), file=self._server.stdin, flush=True)
        child = int(self._line())
        assert self._line() == "here"
        os.kill(child, signal.SIGKILL)
        assert self._line() == "ended"

    def _line(self) -> str:
        assert self._server is not None
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()

    def end(self) -> None:
        """End the process that forks."""
        if self._server is not None:
            self._server.communicate()
