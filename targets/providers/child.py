"""Questions to a provider in a process of their own: a compiler that crashes or hangs becomes an answer.

Parent and child speak JSON, one line a message, over the child's stdin and a pipe of their own (native code prints on
stdout). ``python -m edgepress.targets.providers.child FD`` is the child.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgepress.errors import EdgepressError

_LAST_WORDS = 400  # characters of stderr that are repeated after a crash


class Child:
    """A process that answers questions; made when first asked, and again after a crash.

    ``timeout`` is in seconds a question. ``folder`` is the child's working directory.
    """

    def __init__(self, timeout: float, folder: Path | None = None) -> None:
        self._timeout = timeout
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()

    def call(self, provider: str, question: str, **arguments: Any) -> dict[str, Any]:
        """Return what ``answer`` of ``providers/<provider>.py`` returns; ``{"error": text}`` when it does not come."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        message = {"provider": provider, "question": question, "arguments": arguments}
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            line = self._read_line()
        except (BrokenPipeError, EOFError):
            return {"error": f"the provider's compiler {self._stop()}"}
        except TimeoutError:
            process.kill()
            self._stop()
            return {"error": f"the provider's compiler gave no answer in {self._timeout:g} s"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._stop()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        self._answers, writer = os.pipe()
        search = os.pathsep.join(path for path in sys.path if path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(writer)],  # -P: no module out of `folder`
                stdin=subprocess.PIPE,
                stdout=self._stderr,
                stderr=self._stderr,
                cwd=self._folder,
                env=os.environ | {"PYTHONPATH": search},
                pass_fds=(writer,),
            )
        finally:
            os.close(writer)

    def _read_line(self) -> bytes:
        deadline = time.monotonic() + self._timeout
        line = bytearray()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                raise EOFError
            line += piece
        return bytes(line)

    def _stop(self) -> str:
        """End the process; return how it ended and its last words."""
        process, self._process = self._process, None
        assert process is not None
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()
        os.close(self._answers)
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _LAST_WORDS))
        words = " ".join(self._stderr.read().decode(errors="replace").split())
        how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        return f"{how}: …{words}" if words else how


def main(answers: int) -> None:
    """Answer questions from stdin on the descriptor ``answers`` until stdin ends."""
    with os.fdopen(answers, "wb", buffering=0) as pipe:
        for line in sys.stdin:
            message = json.loads(line)
            provider = importlib.import_module(f"edgepress.targets.providers.{message['provider']}")
            try:
                answer = provider.answer(message["question"], **message["arguments"])
            except EdgepressError as error:
                answer = {"error": str(error)}
            pipe.write(json.dumps(answer).encode() + b"\n")


@contextmanager
def heard(lines: list[str]) -> Iterator[None]:
    """Add to ``lines`` what onnxruntime and its providers log on stderr, everything they have to say."""
    import onnxruntime

    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        onnxruntime.set_default_logger_severity(0)
        try:
            yield
        finally:
            onnxruntime.set_default_logger_severity(4)
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


if __name__ == "__main__":
    main(int(sys.argv[1]))
