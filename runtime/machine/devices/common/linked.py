"""A device behind a link: the protocol, whatever the link is."""

import secrets
import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from edgepress.calls import Answer, Call
from edgepress.calls.guest import read_arrays
from edgepress.calls.host import Ended, Report, converse, raise_early_end, write_calls
from edgepress.errors import EdgepressError
from edgepress.runtime.machine.devices.common import store
from edgepress.runtime.machine.devices.common.errors import DeviceUnusable, LinkLost
from edgepress.runtime.machine.devices.common.here import runner as runner_facts
from edgepress.runtime.machine.devices.common.here import with_runner
from edgepress.runtime.machine.devices.common.link import Link
from edgepress.runtime.machine.devices.common.lock import OURS, Lock
from edgepress.runtime.machine.devices.common.runner import Runner, make_runner
from edgepress.runtime.machine.devices.common.whole import whole_file
from edgepress.runtime.machine.devices.describing import linux, record
from edgepress.runtime.machine.devices.describing.description import Description

_CLEANING = 600.0  # seconds


class Linked:
    """A device that is reached by ``link``. Reading takes no lock; whatever changes something there does."""

    def __init__(self, link: Link, *, before_call: Callable[[], None], close: Callable[[], None]) -> None:
        """``before_call`` refuses devices in a state to measure nothing in; ``close`` ends the link."""
        self.name = link.name
        self._link = link
        self._before_call, self._close = before_call, close
        self._lock: Lock | None = None
        self._runner: Runner | None = None
        self._scratch: str | None = None

    def describe(self, *, runner: bool = False) -> Description:
        """What it is, by one script; with ``runner`` also what only a process there can tell."""
        said = self._link.ask(record.script(shlex.quote(self._link.base)), what="reading what it is")
        found = linux.describe(self.name, record.parse(said))
        if not runner:
            return found
        [(told, _)] = self.call([Call(runner_facts)])
        assert self._runner is not None
        notes = (*found.notes, f"functions run in {self._runner.about}")
        return replace(with_runner(found, told), notes=notes)

    def push(self, path: Path) -> str:
        """Send what has changed since it was last pushed; return its path there."""
        self._hold()
        return store.push(self._link, path)

    def call(
        self, calls: Sequence[Call], *, report: Report | None = None, timeout: float | None = None
    ) -> list[Answer]:
        """Call functions in a fresh process there; the first call brings what it needs."""
        self._hold()
        self._before_call()
        if self._runner is None:
            self._runner = make_runner(self._link, self._link.ask("uname -m").strip())
        job = f"{self._link.base}/jobs/{secrets.token_hex(8)}"
        try:
            return self._carry_out(self._runner, job, calls, report, timeout)
        finally:
            with suppress(DeviceUnusable):  # of a link that broke: the next client removes it
                self._link.try_to(f"rm -rf {shlex.quote(job)}")

    def _carry_out(
        self, runner: Runner, job: str, calls: Sequence[Call], report: Report | None, timeout: float | None
    ) -> list[Answer]:
        quoted, base = shlex.quote(job), shlex.quote(self._link.base)
        with tempfile.TemporaryDirectory(prefix="edgepress-calls-") as folder:
            write_calls(Path(folder), calls)
            first, *others = sorted(Path(folder).iterdir())  # calls.json, and arrays
            start = f"mkdir -p {quoted} {base}/cache && cat > {quoted}/{first.name}"
            self._link.ask(start, content=first.read_bytes(), what="sending calls")
            for path in others:
                self._link.put(path, f"{job}/{path.name}")
        own = f"HOME={quoted} TMPDIR={quoted} LC_ALL=C.UTF-8 PYTHONHASHSEED=0 EDGEPRESS_CACHE={base}/cache"
        start = f"echo $$ > {quoted}/pid; unset LD_PRELOAD LD_LIBRARY_PATH; exec env {own} {runner.command} {quoted}"
        ended = converse(
            self._link.command(f"sh -c {shlex.quote(start)}; code=$?; echo; echo '{{\"ended\":' $code'}}'"),
            report=report,
            timeout=timeout,
        )
        if ended.late:
            self._link.try_to(f"kill -9 $(cat {quoted}/pid)")
        answers = self._answers(job, ended)
        code = ended.code_there
        if code is None and not ended.late:
            raise _with(self._link.lost(ended.errors, quote=False), answers)
        raise_early_end(replace(ended, code=code or 0), len(calls), answers, self.name, timeout)
        return answers

    def _answers(self, job: str, ended: Ended) -> list[Answer]:
        """What was answered; arrays are fetched, as far as the link holds."""
        answers: list[Answer] = []
        with tempfile.TemporaryDirectory(prefix="edgepress-calls-") as folder:
            for number, line in enumerate(ended.answered):
                file = Path(folder) / f"out-{number}.npz"
                if line["arrays"]:
                    try:
                        self._link.get(f"{job}/{file.name}", file)
                    except DeviceUnusable as error:
                        raise _with(error, answers) from error
                answers.append((line["value"], read_arrays(file, line["arrays"])))
        return answers

    def scratch(self) -> str:
        """A folder there, removed when the device is closed."""
        self._hold()
        if self._scratch is None:
            self._scratch = f"{self._link.base}/scratch/{secrets.token_hex(8)}"
            self._link.ask(f"mkdir -p {shlex.quote(self._scratch)}", what="making a folder")
        return self._scratch

    def pull(self, there: str, into: Path) -> None:
        """Bring a file from there."""
        with whole_file(into) as partial:
            self._link.get(there, partial)

    def clean(self) -> None:
        """Remove our folder, which has our mark; there is nothing of ours elsewhere."""
        base = shlex.quote(self._link.base)
        code, _, _ = self._link.try_to(f"[ -e {base} ]")
        if code:
            return
        self._hold()
        self._scratch = self._runner = None
        self._link.ask(
            f'[ -f {base}/{OURS} ] && cd {base} && for one in *; do [ "$one" = lock ] || rm -rf "$one"; done',
            timeout=_CLEANING,
            what="cleaning",
        )
        self._release()
        self._link.ask(f"rm -rf {base}", what="cleaning")

    def _hold(self) -> None:
        """Take the lock, which removes what a client that was cut off left behind."""
        if self._lock is not None and not self._lock.is_held:  # the link broke since
            self._release()
            self._scratch = self._runner = None
        if self._lock is None:
            self._lock = Lock(self._link)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        """The device itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what functions wrote, let others in, end the link."""
        try:
            if self._scratch is not None:
                with suppress(DeviceUnusable):
                    self._link.try_to(f"rm -rf {shlex.quote(self._scratch)}")
            self._release()
        finally:
            self._close()


def _with(error: EdgepressError, answers: Sequence[Answer]) -> EdgepressError:
    """The same error with the answers that there are."""
    if isinstance(error, LinkLost):
        error.answers = list(answers)
        return error
    lost = LinkLost(str(error), answers)
    lost.__cause__ = error
    return lost
