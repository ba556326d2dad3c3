"""Devices whose programs see this machine's files: nothing has to be sent."""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from edgepress.errors import InputError
from edgepress.runtime.machine.devices.common.whole import whole_file


class InPlace:
    """The part of the protocol that is about files."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def push(self, path: Path) -> str:
        """Nothing is sent: the path there is the path here."""
        if not path.exists():
            raise InputError(f"{path} is not there; give a file or a folder that is")
        return str(path.resolve())

    def scratch(self) -> str:
        """A temporary folder."""
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="edgepress-device-")
        return self._scratch.name

    def pull(self, there: str, into: Path) -> None:
        """Copy."""
        source = Path(there)
        if not source.is_file():
            raise InputError(f"{there} is no file on {self.name}; nothing was written")
        with whole_file(into) as partial:
            shutil.copyfile(source, partial)

    def clean(self) -> None:
        """Nothing was pushed; what functions wrote is removed."""
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def __enter__(self) -> Self:
        """The device itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind."""
        self.clean()
