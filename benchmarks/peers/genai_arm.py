"""onnxruntime-genai on emulated ARM: its builder's 4-bit model of its own defaults, in its own wheel for arm64.

The wheel is of the version that is installed here, fetched by pip, which checks it; the onnxruntime in it is the one
that the emulator has.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from arm_instructions import Machine, Sample, Subject
from common import WORK

from edgepress.files import atomic_directory
from edgepress.runtime.counting.touched import weights_of
from edgepress.targets.emulator import Call
from edgepress.targets.emulator.packages import PYTHON, WHEEL_PLATFORMS
from edgepress.targets.emulator.system import boot
from peers import genai_builder
from peers.counted import IN_MACHINE, asked, open_checkpoint, sample, versions_of
from peers.in_machine import run_genai

PACKAGE = f"onnxruntime-genai=={version('onnxruntime-genai')}"
FORMS = ("rtn",)
CACHE_BYTES = 4  # of a key or value: the builder's models for the CPU keep both in float32


def wheel() -> Path:
    """The unpacked wheel for the emulated Python."""
    target = WORK / f"genai-arm-{PACKAGE.partition('==')[2]}"
    if not target.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
        command += [word for name in WHEEL_PLATFORMS for word in ("--platform", name)]
        with atomic_directory(target) as work:
            subprocess.run([*command, "--target", str(work), PACKAGE], check=True)
    return target


def count(machine: Machine, cpu: str, subject: Subject, forms: Sequence[str]) -> Iterator[Sample]:
    """Build the subject by each of the builder's algorithms, and count all in one boot."""
    checkpoint = open_checkpoint(subject)
    bundles = {form: WORK / "arm" / f"{subject.folder}-genai-{form}" for form in forms}
    for form, path in bundles.items():
        if not path.exists():
            genai_builder.build(checkpoint, path, form)
    files = {f"bundles/{form}": path for form, path in bundles.items()} | {"genai": wheel()} | IN_MACHINE
    calls = [Call(run_genai, {"bundle": f"/bundles/{form}", **asked(checkpoint)}) for form in bundles]
    for (form, path), told in zip(bundles.items(), boot(*machine, cpu, calls, files), strict=True):
        weights, row = weights_of(path / "model.onnx"), _cache_row(path)
        for call in told["calls"]:
            yield sample(
                ("onnxruntime-genai", form, cpu, subject),
                call,
                call["operators"],
                weight_bytes=weights.bytes_of(call["tokens"]),
                cache_row=row,
                versions=versions_of(machine, package=PACKAGE),
            )


def _cache_row(bundle: Path) -> int:
    """Bytes of a token's keys and values."""
    decoder = json.loads((bundle / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    numbers = decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
    return int(2 * numbers * CACHE_BYTES)
