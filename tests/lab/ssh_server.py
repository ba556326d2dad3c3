"""A real OpenSSH server on loopback whose remote side is an arm64 machine, and a client's config for it."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import closing, suppress
from pathlib import Path

from lab import arm_machine
from lab.recorded_devices import board

_USERS = ("board", "small", "readonly")


class SshServer:
    """Started once; ``root`` is the machine's file system, ``path`` a folder with an ``ssh`` that uses our config."""

    def __init__(self, folder: Path, programs: Path, qemu: Path) -> None:
        self.folder, self.root, self.path = folder, folder / "root", folder / "bin"
        arm_machine.build(self.root, programs / "arm/usr/bin/busybox")
        arm_machine.record(self.root, board())
        for name in ("lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        self._command = arm_machine.command(self.root, qemu, programs / "host/usr")
        self._port = free_port()
        self._write_config()
        self._process = self._start()

    def _write_config(self) -> None:
        etc = self.root / "etc/ssh"
        etc.mkdir()
        self.path.mkdir()
        for key in (etc / "host_key", self.folder / "key", self.folder / "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        shutil.copy(self.folder / "key.pub", etc / "authorized")
        settings = {
            "Port": self._port,
            "ListenAddress": "127.0.0.1",
            "HostKey": "/etc/ssh/host_key",
            "AuthorizedKeysFile": "/etc/ssh/authorized",
            "StrictModes": "no",
            "UsePAM": "no",
            "PidFile": "none",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "SetEnv": "QEMU_CPU=cortex-a76",
        }
        (etc / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        host_key = (etc / "host_key.pub").read_text().rsplit(" ", 1)[0]
        other_key = (self.folder / "other_key.pub").read_text().rsplit(" ", 1)[0]
        (self.folder / "known").write_text(f"[127.0.0.1]:{self._port} {host_key}\n")
        (self.folder / "known_other").write_text(f"[127.0.0.1]:{self._port} {other_key}\n")
        hosts = [(name, name, self._port, "key", "known") for name in _USERS]
        hosts += [
            ("nobody", "board", free_port(), "key", "known"),
            ("denied", "board", self._port, "other_key", "known"),
            ("changed", "board", self._port, "key", "known_other"),
            ("unknown", "board", self._port, "key", "known_nothing"),
        ]
        lines = ["IdentitiesOnly yes", "StrictHostKeyChecking yes", "GlobalKnownHostsFile none"]
        for alias, user, port, key, known in hosts:
            lines += [f"Host {alias}", "  HostName 127.0.0.1", f"  Port {port}", f"  User {user}"]
            lines += [f"  IdentityFile {self.folder / key}", f"  UserKnownHostsFile {self.folder / known}"]
        config = self.folder / "config"
        config.write_text("\n".join(lines) + "\n")
        wrapper = self.path / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
        wrapper.chmod(0o755)

    def _start(self) -> "subprocess.Popen[bytes]":
        program = ("/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/sshd_config")
        process = subprocess.Popen([*self._command, *program], stderr=subprocess.PIPE)
        assert process.stderr is not None
        said = b""
        while b"Server listening" not in said:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(f"sshd did not start: {said.decode(errors='replace')}")
            said += line
        return process

    def cut(self) -> None:
        """Kill what serves each connection, as a lost link does: no goodbye."""
        for pid in descendants(self._process.pid):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    os.kill(pid, signal.SIGKILL)

    def home(self, user: str = "board") -> Path:
        """Our folder in a user's home."""
        return self.root / "home" / user / ".cache/edgepress-device"

    def end(self) -> None:
        """End it with all that it started."""
        for pid in [*descendants(self._process.pid), self._process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.root)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found
