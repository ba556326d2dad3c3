"""A phone for adb: a daemon that speaks ADB's wire protocol on loopback, and an arm64 machine behind it.

    unshare --user --map-root-user --mount python adb_daemon.py ROOT QEMU USR PORT FEATURES

The protocol is that of AOSP's ``packages/modules/adb``: ``protocol.txt`` (messages of 24 bytes and their payload),
``docs/dev/services.md`` and ``SYNC.TXT`` (``sync:``), ``shell_protocol.h`` (``shell,v2``). FEATURES are those that the
daemon says it has, by commas: ``unauthorized`` is none of adb's, but a phone that has not allowed the machine.

Lines on standard input change the phone: ``drop`` cuts every connection, ``full`` and ``readonly`` mount such a file
system over ``/data/local/tmp``, ``restore`` takes it away. Each is answered by a line.
"""

import errno
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

sys.path.insert(0, str(Path(__file__).parent))
import arm_machine

_HEADER = struct.Struct("<4sIII I4s")
_VERSION, _MOST = 0x01000001, 256 << 10  # this version needs no checksums
_BANNER = "device::ro.product.name=oriole;ro.product.model=Pixel_6;ro.product.device=oriole;features={}"
_PACKET = struct.Struct("<BI")  # of shell,v2: kind and length
_INPUT, _OUTPUT, _ERRORS, _EXIT, _END_OF_INPUT = 0, 1, 2, 3, 4
_CHUNK = 64 << 10  # bytes of a DATA of sync:
_TMP = "data/local/tmp"


class Phone:
    """Its file system, and what runs on it."""

    def __init__(self, root: Path, features: str) -> None:
        self.root, self.features = root, features
        self.connections: set[Connection] = set()

    def start(self, command: str) -> "subprocess.Popen[bytes]":
        """A command in the phone's shell."""
        environment = ("PATH=/bin", "HOME=/", "QEMU_CPU=cortex-a76", "LD_PRELOAD=/nowhere.so")
        return subprocess.Popen(
            ["chroot", self.root, "/bin/env", "-i", *environment, "/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def change(self, word: str) -> None:
        """What a line on standard input asks for."""
        place = self.root / _TMP
        if word == "drop":
            for connection in list(self.connections):
                connection.cut()
        elif word == "restore":
            subprocess.run(["umount", place], check=True)
        else:
            options = {"full": "size=20m", "readonly": "ro"}[word]
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, word, place], check=True)


class Stream:
    """One of the streams of a connection: bytes in order, each message acknowledged before the next is sent."""

    def __init__(self, connection: "Connection", local: int, remote: int) -> None:
        self._connection, self._local, self._remote = connection, local, remote
        self._arrived: queue.Queue[bytes] = queue.Queue()
        self._buffer = b""
        self.acknowledged = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.is_closed = False

    def arrive(self, data: bytes) -> None:
        """What the other side has sent; b"" is its end."""
        self._arrived.put(data)

    def read(self, size: int) -> bytes:
        """So many bytes; fewer when the stream has ended."""
        while len(self._buffer) < size:
            piece = self._arrived.get()
            if not piece:
                self._arrived.put(b"")
                break
            self._buffer += piece
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def write(self, data: bytes) -> None:
        """Send, and wait until it is taken."""
        with self._lock:
            for start in range(0, len(data), _MOST):
                if self.is_closed:
                    return
                self._connection.send(b"WRTE", self._local, self._remote, data[start : start + _MOST])
                self.acknowledged.acquire()

    def close(self) -> None:
        """Say that this is the end."""
        if not self.is_closed:
            self._connection.send(b"CLSE", self._local, self._remote)
            self.end()

    def end(self) -> None:
        """Take note that it has ended; nobody waits for it any longer."""
        self.is_closed = True
        self.arrive(b"")
        self.acknowledged.release()


class Connection:
    """From adb's server to the phone."""

    def __init__(self, phone: Phone, opened: socket.socket) -> None:
        self._phone, self._socket = phone, opened
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        """One message."""
        magic = bytes(byte ^ 0xFF for byte in command)
        with self._lock, suppress(OSError):
            self._socket.sendall(_HEADER.pack(command, first, second, len(data), 0, magic) + data)

    def cut(self) -> None:
        """End without a goodbye."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Answer until the connection ends."""
        self._phone.connections.add(self)
        try:
            while header := self._receive(_HEADER.size):
                command, first, second, size, _, _ = _HEADER.unpack(header)
                self._handle(command, first, second, self._receive(size))
        finally:
            self._phone.connections.discard(self)
            for stream in self._streams.values():
                stream.end()
            self._socket.close()

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self._socket.recv(size - len(data))
            except OSError:
                return b""
            if not piece:
                return b""
            data += piece
        return data

    def _handle(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command == b"CNXN":
            if self._phone.features == "unauthorized":
                self.send(b"AUTH", 1, 0, bytes(20))  # and no answer to the key ever is right
            else:
                self.send(b"CNXN", _VERSION, _MOST, _BANNER.format(self._phone.features).encode())
        elif command == b"OPEN":
            local = len(self._streams) + 1
            self._streams[local] = stream = Stream(self, local, first)
            service = service_of(data.rstrip(b"\0").decode())
            if service is None:
                self.send(b"CLSE", 0, first)
                return
            self.send(b"OKAY", local, first)
            threading.Thread(target=service, args=(self._phone, stream), daemon=True).start()
        elif command in (b"WRTE", b"OKAY", b"CLSE") and second in self._streams:
            stream = self._streams[second]
            if command == b"WRTE":
                stream.arrive(data)
                self.send(b"OKAY", second, first)
            elif command == b"OKAY":
                stream.acknowledged.release()
            else:
                stream.end()


def service_of(name: str) -> Callable[[Phone, Stream], None] | None:
    """What answers a stream of this name."""
    kind, _, command = name.partition(":")
    if kind.split(",")[:2] == ["shell", "v2"]:
        return lambda phone, stream: shell(phone, stream, command)
    return sync if kind == "sync" else None


def shell(phone: Phone, stream: Stream, command: str) -> None:
    """``shell,v2``: a command with its three streams and its exit code, in packets."""
    process = phone.start(command)
    assert process.stdin is not None

    def feed() -> None:
        while header := stream.read(_PACKET.size):
            kind, size = _PACKET.unpack(header)
            data = stream.read(size)
            if kind == _INPUT:
                with suppress(OSError):
                    os.write(process.stdin.fileno(), data) if size else None
            elif kind == _END_OF_INPUT:
                break
        with suppress(OSError):
            process.stdin.close()

    def drain(kind: int, source: object) -> None:
        while piece := os.read(source.fileno(), _CHUNK):  # type: ignore[attr-defined]  # a pipe
            stream.write(_PACKET.pack(kind, len(piece)) + piece)

    pumps = [
        threading.Thread(target=drain, args=(_OUTPUT, process.stdout), daemon=True),
        threading.Thread(target=drain, args=(_ERRORS, process.stderr), daemon=True),
    ]
    for pump in (threading.Thread(target=feed, daemon=True), *pumps):
        pump.start()
    for pump in pumps:
        pump.join()
    code = process.wait()
    stream.write(_PACKET.pack(_EXIT, 1) + bytes([code if code >= 0 else 128 - code]))
    stream.close()


def sync(phone: Phone, stream: Stream) -> None:
    """``sync:``: files to and from the phone, in both versions of the protocol."""
    while request := stream.read(8):
        command, size = request[:4], struct.unpack("<I", request[4:])[0]
        if command == b"QUIT":
            break
        name = stream.read(size).decode()
        if command in (b"STAT", b"STA2", b"LST2"):
            stream.write(_status(command, phone.root / name.lstrip("/")))
        elif command in (b"SEND", b"SND2"):
            if command == b"SEND":
                name, _, _mode = name.rpartition(",")
            else:
                stream.read(12)  # its name again, mode, flags: no compression was offered
            stream.write(_take(stream, phone.root / name.lstrip("/")))
        elif command in (b"RECV", b"RCV2"):
            if command == b"RCV2":
                stream.read(8)
            _give(stream, phone.root / name.lstrip("/"))
        else:
            stream.write(_failure(f"unknown command {command!r}"))
            break
    stream.close()


def _status(command: bytes, path: Path) -> bytes:
    try:
        found = path.stat() if command == b"STA2" else path.lstat()
    except OSError as error:
        if command == b"STAT":
            return command + struct.pack("<III", 0, 0, 0)
        return command + struct.pack("<IQQIIIIQqqq", error.errno or 5, *(0,) * 10)
    times = [int(found.st_atime), int(found.st_mtime), int(found.st_ctime)]
    if command == b"STAT":
        return command + struct.pack("<III", found.st_mode, found.st_size & 0xFFFFFFFF, times[1])
    numbers = (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, 2000, 2000, found.st_size, *times)
    return command + struct.pack("<IQQIIIIQqqq", 0, *numbers)


def _take(stream: Stream, path: Path) -> bytes:
    """Write what comes, up to its end; an error is told then, as adbd does."""
    failed: OSError | None = None
    with ExitStack() as opened:
        file: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context(path.open("wb", buffering=0))
        except OSError as error:
            failed = error
        while header := stream.read(8):
            kind, size = header[:4], struct.unpack("<I", header[4:])[0]
            if kind == b"DONE":
                break
            data = stream.read(size)
            try:
                if file is not None and file.write(data) != size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                failed, file = failed or error, None
    if failed is None:
        return b"OKAY" + struct.pack("<I", 0)
    with suppress(OSError):
        path.unlink()
    return _failure(f"couldn't write {path.name}: {failed.strerror}")


def _give(stream: Stream, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                stream.write(b"DATA" + struct.pack("<I", len(piece)) + piece)
    except OSError as error:
        stream.write(_failure(f"open failed: {error.strerror}"))
        return
    stream.write(b"DONE" + struct.pack("<I", 0))


def _failure(words: str) -> bytes:
    return b"FAIL" + struct.pack("<I", len(words)) + words.encode()


def main() -> None:
    """Enter the machine and serve."""
    root, qemu, usr = map(Path, sys.argv[1:4])
    arm_machine.enter(root, qemu, usr)
    phone = Phone(root, sys.argv[5])
    server = socket.create_server(("127.0.0.1", int(sys.argv[4])))

    def accept() -> None:
        while True:
            opened, _ = server.accept()
            threading.Thread(target=Connection(phone, opened).serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        phone.change(line.strip())
        print("done", flush=True)


if __name__ == "__main__":
    main()
