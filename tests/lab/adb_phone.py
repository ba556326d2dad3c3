"""Debian's adb, client and server, and a phone that is attached to it: ours, with what a phone was recorded to say."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lab import adb_daemon, arm_machine
from lab.recorded_devices import phone
from lab.ssh_server import descendants, free_port

V2 = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir,sendrecv_v2"  # a phone of today
V1 = "shell_v2,cmd"  # one whose files go by the first version of sync:


class AdbPhone:
    """A phone's file system and the daemon before it."""

    def __init__(self, folder: Path, programs: Path, qemu: Path, features: str) -> None:
        self.root = folder / "root"
        arm_machine.build(self.root, programs / "arm/usr/bin/busybox")
        (self.root / "data/local/tmp").mkdir(parents=True)
        record = phone()
        arm_machine.record(self.root, {name: text for name, text in record.items() if not name.startswith("commands/")})
        self.answer("getprop", record["commands/getprop"])
        self.answer("getconf", record["commands/page_size"])
        self.answer("dumpsys", "  mWakefulness=Awake")
        port = free_port()
        self.serial = f"127.0.0.1:{port}"
        self._daemon = subprocess.Popen(
            [
                *arm_machine.namespace(),
                *(sys.executable, adb_daemon.__file__, self.root, qemu, programs / "host/usr", str(port), features),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._daemon.stdout is not None
        assert self._daemon.stdout.readline() == "ready\n"

    def answer(self, program: str, text: str) -> None:
        """Let a program of the phone print a text."""
        told, path = self.root / f"recorded-{program}", self.root / "bin" / program
        told.write_text(text + "\n")
        path.write_text(f"#!/bin/sh\ncat /recorded-{program}\n")
        path.chmod(0o755)

    def change(self, word: str) -> None:
        """Have the daemon cut connections or mount something."""
        assert self._daemon.stdin is not None
        assert self._daemon.stdout is not None
        print(word, file=self._daemon.stdin, flush=True)
        assert self._daemon.stdout.readline() == "done\n"

    @property
    def home(self) -> Path:
        """Our folder on the phone."""
        return self.root / "data/local/tmp/edgepress"

    def end(self) -> None:
        """End it with all that it started."""
        _end(self._daemon)
        shutil.rmtree(self.root)


class Adb:
    """Debian's adb: its server on a port of ours, and a client in ``path`` that uses it."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.path = folder / "bin"
        self.path.mkdir()
        libraries = next((programs / "host/usr/lib").glob("*-linux-gnu*"))
        loader = next(libraries.glob("ld*.so.*"))
        program = programs / "host/usr/lib/android-sdk/platform-tools/adb"
        start = f"{loader} --library-path {libraries}:{libraries / 'android'} {program}"
        self._socket = f"tcp:localhost:{free_port()}"
        client = self.path / "adb"
        client.write_text(f'#!/bin/sh\nexport HOME={folder} ADB_MDNS=0\nexec {start} -L {self._socket} "$@"\n')
        client.chmod(0o755)
        self._client = client
        self._server = subprocess.Popen(
            [client, "server", "nodaemon"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def connect(self, phone_: AdbPhone) -> None:
        """Attach a phone, as one does over a network."""
        for _ in range(50):
            done = subprocess.run([self._client, "connect", phone_.serial], capture_output=True, text=True, check=False)
            if "connected to" in done.stdout or "failed to authenticate" in done.stdout:
                return
        raise RuntimeError(f"adb connect: {done.stdout}{done.stderr}")

    def disconnect(self, phone_: AdbPhone) -> None:
        """Detach it."""
        subprocess.run([self._client, "disconnect", phone_.serial], capture_output=True, check=False)

    def end(self) -> None:
        """End the server."""
        _end(self._server)


def _end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    for pid in [*descendants(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
