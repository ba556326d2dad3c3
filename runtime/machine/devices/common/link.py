"""A link to a device that has a shell: scripts run there, and what they say when something is wrong."""

import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgepress.errors import EdgepressError
from edgepress.runtime.machine.devices.common.errors import DeviceFull, DeviceReadOnly, DeviceUnusable, LinkLost

ANSWER = 60.0  # seconds that a small script may take: more than a phone takes to wake up
_MARK = "\x1e"  # before the exit code, the last that a script says: without it the link broke
_FULL = re.compile(r"No space left on device|Disk quota exceeded|not enough space", re.IGNORECASE)
_READ_ONLY = re.compile(r"Read-only file system")
_REFUSED = re.compile(r"Permission denied|Operation not permitted|Not a directory|cannot create")


@dataclass(frozen=True)
class Link:
    """How scripts reach a device.

    ``command`` gives the command of this machine that runs a script in the device's ``sh``, with its standard streams;
    ``send`` and ``fetch`` copy one file. ``explain`` makes an error of what the client said when a script did not come
    to its end, None where that says nothing; ``base`` asks the device, by a script, which folder is ours.
    """

    name: str
    command: Callable[[str], list[str]]
    explain: Callable[[str], EdgepressError | None]
    base: str
    send: Callable[[Path, str], str] | None = None
    fetch: Callable[[str, Path], str] | None = None

    def ended(self, script: str) -> str:
        """A script with its exit code told after it, by which its end is known."""
        return f"( {script}\n); code=$?; echo; echo {_MARK}$code"

    def lost(self, errors: str, *, quote: bool = True) -> EdgepressError:
        """What happened when a script did not come to its end; ``quote`` unless a program there wrote them, too."""
        found = self.explain(errors)
        if found is not None:
            return found
        said = " / ".join(errors.strip().splitlines()[-3:]) if quote else ""
        return LinkLost(
            f"the link to {self.name} broke{f' ({said})' if said else ''}; run it again, what is done is kept"
        )

    def ask(
        self, script: str, *, content: BinaryIO | bytes | None = None, timeout: float | None = ANSWER, what: str = ""
    ) -> str:
        """Run a script and return what it says; ``content`` is its standard input, ``what`` names it in errors.

        Raises:
            DeviceUnusable: by the name of what is wrong, when the link broke or the script failed.

        """
        code, output, errors = self.try_to(script, content=content, timeout=timeout)
        if code:
            raise self.failed(what or script, errors or output)
        return output

    def try_to(
        self, script: str, *, content: BinaryIO | bytes | None = None, timeout: float | None = ANSWER
    ) -> tuple[int, str, str]:
        """Run a script; return its exit code, what it said, and what it said on standard error."""
        try:
            done = subprocess.run(
                self.command(self.ended(script)),
                **_input(content),
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LinkLost(
                f"{self.name} did not answer within {timeout:g} s; is it asleep, or its link slow? run it again"
            ) from error
        output, errors = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        text, mark, code = output.replace("\r\n", "\n").rpartition(_MARK)
        if not mark or not code.strip().isdigit():
            raise self.lost(errors or output)
        return int(code), text.removesuffix("\n"), errors

    def failed(self, what: str, errors: str) -> DeviceUnusable:
        """What a script's words mean when it failed."""
        said = " / ".join(errors.strip().splitlines()[-3:]) or "no reason given"
        if _FULL.search(errors):
            return DeviceFull(
                f"{self.name} is full ({said}); free some there, or remove what edgepress left: "
                f"edgepress devices {self.name} --clean"
            )
        if _READ_ONLY.search(errors) or _REFUSED.search(errors):
            return DeviceReadOnly(f"nothing can be written to {self.base} on {self.name}: {said}; make it writable")
        return DeviceUnusable(f"{self.name}: {what} failed: {said}")

    def put(self, source: Path, there: str) -> None:
        """Copy a file there, under a temporary name until it is whole."""
        part, what = f"{there}.part", f"sending {source.name}"
        try:
            move = f"mv {shlex.quote(part)} {shlex.quote(there)}"
            if self.send is None:
                with source.open("rb") as content:
                    self.ask(f"cat > {shlex.quote(part)} && {move}", content=content, timeout=None, what=what)
            else:
                if errors := self.send(source, part):
                    raise self.explain(errors) or self.failed(what, errors)
                self.ask(move, what=what)
        except DeviceUnusable as error:
            if not isinstance(error, LinkLost):
                self.try_to(f"rm -f {shlex.quote(part)}")
            raise

    def get(self, there: str, into: Path) -> None:
        """Copy a file from there; ``into`` is written as it comes.

        Raises:
            DeviceUnusable: it is not there, or the link broke.

        """
        size = int(self.ask(f"wc -c < {shlex.quote(there)}", what=f"reading {there}").strip() or 0)
        if self.fetch is not None:
            if errors := self.fetch(there, into):
                raise self.explain(errors) or self.failed(f"reading {there}", errors)
        else:
            with into.open("wb") as file:
                done = subprocess.run(
                    self.command(f"cat {shlex.quote(there)}"),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.PIPE,
                    check=False,
                )
            if done.returncode:
                raise self.lost(done.stderr.decode("utf-8", "replace"))
        if into.stat().st_size != size:
            raise LinkLost(f"{there} has {size:,} bytes on {self.name}, {into.stat().st_size:,} came; run it again")


def _input(content: BinaryIO | bytes | None) -> dict[str, Any]:
    """The arguments of ``subprocess.run`` for a standard input: nothing, a file, or bytes."""
    if isinstance(content, bytes):
        return {"input": content}
    return {"stdin": subprocess.DEVNULL if content is None else content}
