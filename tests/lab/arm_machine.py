"""An arm64 machine as seen from inside: its programs are run by qemu's user mode, its /proc and /sys are recorded.

    unshare --user --map-root-user --mount python arm_machine.py enter ROOT QEMU -- PROGRAM …

In a user namespace of its own the kernel's binfmt_misc is ours (Linux 6.7), so it starts arm64 programs by qemu for us
and for nobody else; nothing needs root, and all mounts are gone when the last process is.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_ELF_ARM64 = (
    r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_NEW_USER = 0x10000000
USER = 1000


def namespace() -> list[str | Path]:
    """The command that starts a program in namespaces of its own, where it may mount."""
    return ["unshare", "--user", "--map-root-user", "--mount"]


def command(root: Path, qemu: Path, *program: str | Path) -> list[str | Path]:
    """The command that runs a program of ROOT as its user, with the mounts in place."""
    return [*namespace(), sys.executable, __file__, root, qemu, *program]


def works(qemu: Path) -> str:
    """Why this machine cannot do it; "" where it can."""
    script = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && test -w /proc/sys/fs/binfmt_misc/register"
    try:
        done = subprocess.run([*namespace(), "sh", "-c", script], capture_output=True, check=False)
    except OSError as error:
        return f"unshare cannot be run: {error}"
    if done.returncode:
        return f"no binfmt_misc in a user namespace (Linux 6.7): {done.stderr.decode(errors='replace').strip()}"
    return "" if qemu.exists() else f"{qemu} is not there"


def build(root: Path, busybox: Path) -> None:
    """Lay out a file system: an arm64 shell and its tools, places to mount on, two users' homes."""
    for name in ("bin", "dev", "proc", "sys", "etc", "usr", "tmp", "home/board", "small", "readonly"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o777)
    (root / "bin/busybox").write_bytes(busybox.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    listed = (
        "sh ls cat echo mkdir rm mv ln cp tar gzip gunzip df du wc find sha256sum date sleep kill readlink grep env "
        "true false uname head tail test stat chmod id sed printf touch ps"
    )
    for name in listed.split():
        (root / "bin" / name).symlink_to("busybox")
    for name in _DEVICES:
        (root / "dev" / name).touch()
    homes = {"board": "/home/board", "small": "/small", "readonly": "/readonly"}
    users = [f"{name}:x:{USER}:{USER}::{home}:/bin/sh" for name, home in homes.items()]
    (root / "etc/passwd").write_text("\n".join(["root:x:0:0::/:/bin/sh", *users]) + "\n")
    (root / "etc/group").write_text(f"root:x:0:\nboard:x:{USER}:\n")


def record(root: Path, files: dict[str, str]) -> None:
    """Put recorded files of /proc and /sys into a file system; those of /proc are mounted over the kernel's."""
    for name, text in files.items():
        path = root / (name if not name.startswith("proc/") else f"recorded/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def enter(root: Path, qemu: Path, usr: Path) -> None:
    """Mount everything, in a namespace where this process may."""
    _mount("-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc")
    magic, mask = _ELF_ARM64
    Path("/proc/sys/fs/binfmt_misc/register").write_text(f":arm:M::{magic}:{mask}:{qemu}:PF")
    _mount("--bind", usr, root / "usr")
    _mount("--rbind", "/proc", root / "proc")
    for path in sorted((root / "recorded").rglob("*")):
        if path.is_file():
            _mount("--bind", path, root / path.relative_to(root / "recorded"))
    for name in _DEVICES:
        _mount("--bind", f"/dev/{name}", root / "dev" / name)
    _mount("-t", "tmpfs", "-o", "size=20m", "small", root / "small")
    (root / "small").chmod(0o777)
    _mount("-t", "tmpfs", "-o", "ro", "readonly", root / "readonly")


def become_user() -> None:
    """Be the machine's user: in a namespace inside, in which root of the outer one is number 1000."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{USER} 0 1")
    Path("/proc/self/gid_map").write_text(f"{USER} 0 1")


def main() -> None:
    """Enter and run."""
    root, qemu, usr, *program = sys.argv[1:]
    enter(Path(root), Path(qemu), Path(usr))
    become_user()
    os.chroot(root)
    os.chdir("/")
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
