"""An emulator that is set up: where its parts lie."""

from dataclasses import dataclass
from pathlib import Path

from edgepress.targets.emulator import packages


@dataclass(frozen=True)
class Installation:
    """An emulator that is set up. ``versions`` are what its trial run told: of qemu, Python and the wheels."""

    directory: Path
    user: Path
    wheels: Path
    versions: dict[str, str]

    @property
    def qemu(self) -> Path:
        """The emulator of arm64 programs."""
        return self.user / "host" / packages.ARM_EMULATOR

    @property
    def x86_qemu(self) -> Path:
        """The emulator of x86-64 programs."""
        return self.user / "host" / packages.X86_EMULATOR

    @property
    def root(self) -> Path:
        """What the emulated program sees as ``/``, before the host's own files."""
        return self.user / "root"

    @property
    def bytecode(self) -> Path:
        """What the emulated Python compiled, below the absolute path of its source."""
        return self.directory / "bytecode"

    @property
    def python(self) -> Path:
        """The emulated Python."""
        return self.root / "usr/bin" / f"python{packages.PYTHON}"


@dataclass(frozen=True)
class System:
    """The emulator of a whole machine, and the kernel that boots on it."""

    directory: Path
    versions: dict[str, str]

    @property
    def kernel(self) -> Path:
        """The kernel's image."""
        return next((self.directory / "kernel/boot").glob("vmlinuz-*"))

    @property
    def command(self) -> list[str | Path]:
        """How the emulator is started: by the loader that its libraries belong to."""
        libraries = next((self.directory / "host/usr/lib").glob("*-linux-gnu*"))
        loader = next(libraries.glob("ld*.so.*"))
        return [loader, "--library-path", libraries, self.directory / "host" / packages.SYSTEM_EMULATOR_FILE]
