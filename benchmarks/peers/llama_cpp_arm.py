"""llama.cpp for arm64, compiled here from its source distribution, and what it takes on a machine that counts.

The source is that of :mod:`.llama_cpp_source`; the compiler is Debian's (``apt-get install g++-aarch64-linux-gnu
cmake``). llama.cpp's libraries are built with its own flags of a release, once with each set of instructions that it
ships itself; ``count_llama.c`` runs them.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
from arm_instructions import Machine, Sample, Subject
from common import WORK

from edgepress.disk.files import atomic_directory
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.targets.emulator import Call
from edgepress.targets.emulator.system import boot
from peers import llama_cpp
from peers.counted import IN_MACHINE, asked, open_checkpoint, sample, versions_of
from peers.in_machine import run_llama_cpp
from peers.llama_cpp_source import FOLDER, PACKAGE, run, source

COMPILER = "aarch64-linux-gnu-"
ARCHITECTURES = {
    "dotprod": "armv8.2-a+dotprod",
    "fp16": "armv8.2-a+dotprod+fp16",
    "i8mm": "armv8.6-a+dotprod+fp16+i8mm",
    "sve2": "armv8.6-a+dotprod+fp16+sve+i8mm+sve2",
}
"""What ``-march`` is for each build: llama.cpp's own variants armv8.2_1, armv8.2_2, android_armv8.6_1 and armv8.6_2."""
RUNS_ON: Mapping[str, Sequence[str]] = {"cortex-a76": ("dotprod", "fp16"), "neoverse-n2": ("fp16", "i8mm", "sve2")}
"""The builds that are counted on a processor."""
FORMS = tuple(f"{ftype} {name}" for ftype in ("Q4_0", "Q4_K_M") for name in ARCHITECTURES)
CACHE_BYTES = 2  # of a key or value: llama.cpp keeps both in float16 unless told otherwise
_LIBRARIES = ("libllama", "libggml", "libggml-base", "libggml-cpu")
_EMPTY = frozenset({"NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"})  # nodes that compute nothing
_OFF = ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP", "MTMD")


def build(name: str) -> Path:
    """A folder with the libraries for one of ``ARCHITECTURES`` and ``count_llama``; compiled once, for minutes.

    Only ``libggml-cpu`` is compiled for that architecture, as in llama.cpp's releases: the others are the first's.
    """
    target = FOLDER / name
    if not target.exists():
        _build_libraries(name, target)
    _compile_driver(target)
    return target


def _build_libraries(name: str, target: Path) -> None:
    if not shutil.which(f"{COMPILER}g++") or not shutil.which("cmake"):
        sys.exit(f"{COMPILER}g++ or cmake is not there; run: apt-get install g++-aarch64-linux-gnu cmake")
    first = next(iter(ARCHITECTURES))
    common = source() if name == first else build(first)
    made = _compile(name, ("llama",) if name == first else ("ggml-cpu",))
    with atomic_directory(target) as work:
        for library in _LIBRARIES:
            own = name == first or library == "libggml-cpu"
            [path] = (made / "bin" if own else common).glob(f"{library}.so.?")  # the name that the others look for
            shutil.copy(path, work / path.name)
    shutil.rmtree(made)


def _compile(name: str, targets: Sequence[str]) -> Path:
    """Configure and compile llama.cpp; return the folder that holds ``bin``."""
    folder = FOLDER / f"build-{name}"
    options = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_C_COMPILER": f"{COMPILER}gcc",
        "CMAKE_CXX_COMPILER": f"{COMPILER}g++",
        "CMAKE_BUILD_TYPE": "Release",
        "GGML_NATIVE": "OFF",
        "GGML_CPU_ARM_ARCH": ARCHITECTURES[name],
        **{f"LLAMA_BUILD_{part}": "OFF" for part in _OFF},
    }
    run(["cmake", "-S", source(), "-B", folder, *(f"-D{key}={value}" for key, value in options.items())])
    run(["cmake", "--build", folder, "--parallel", str(os.cpu_count()), "--target", *targets])
    return folder


def _compile_driver(folder: Path) -> None:
    """Compile ``count_llama.c`` against the libraries of ``folder``."""
    headers = [f"-I{source() / name}" for name in ("include", "ggml/include")]
    libraries = [str(next(folder.glob(f"{name}.so.?"))) for name in _LIBRARIES]
    code = Path(__file__).with_name("count_llama.c")
    run([f"{COMPILER}gcc", "-O2", "-Wall", "-Wextra", code, *headers, *libraries, "-lm", "-o", folder / "count_llama"])


def compiler() -> str:
    """Such as ``aarch64-linux-gnu-g++ (Debian 12.2.0-14) 12.2.0``."""
    return run([f"{COMPILER}g++", "--version"]).splitlines()[0]


def write_model(checkpoint: Checkpoint, out: Path, ftype: str) -> Path:
    """``out`` as GGUF, quantized by llama.cpp's own quantizer to ``ftype`` (``Q4_0``, ``Q4_K_M``)."""
    exact = llama_cpp.write_gguf(checkpoint, out.with_suffix(".f32"))
    llama_cpp.quantize(exact, out, ftype)
    exact.unlink()
    return out


def count(machine: Machine, cpu: str, subject: Subject, forms: Sequence[str]) -> Iterator[Sample]:
    """Quantize the subject and count it with each build that ``cpu`` runs, in one boot."""
    cases = [(ftype, name) for ftype, name in map(str.split, forms) if name in RUNS_ON.get(cpu, ())]
    if not cases:
        return
    checkpoint = open_checkpoint(subject)
    models = {ftype: WORK / "arm" / f"{subject.folder}-{ftype}.gguf" for ftype, _ in cases}
    for ftype, path in models.items():
        if not path.exists():
            write_model(checkpoint, path, ftype)
    files = {f"models/{ftype}.gguf": path for ftype, path in models.items()}
    files |= {f"llama/{name}": build(name) for _, name in cases}
    how = asked(checkpoint)
    calls = [Call(run_llama_cpp, {"model": ftype, "build": name, **how}) for ftype, name in cases]
    for (ftype, name), told in zip(cases, boot(*machine, cpu, calls, files | IN_MACHINE), strict=True):
        flags = {"march": ARCHITECTURES[name], "features": told["features"]}
        versions = versions_of(machine, package=PACKAGE, compiler=compiler(), **flags)
        weights, row = bytes_of(models[ftype])
        for call in told["calls"]:
            of = ("llama.cpp", f"{ftype} {name}", cpu, subject)
            yield sample(of, call, operators(call["nodes"]), weight_bytes=weights, cache_row=row, versions=versions)


def bytes_of(path: Path) -> tuple[int, int]:
    """Bytes of weights that a token reads, and of a token's keys and values, from the shapes of a GGUF file.

    Each matrix once, a tied embedding as the head.
    """
    tensors = gguf.GGUFReader(path).tensors
    untied = any(tensor.name == "output.weight" for tensor in tensors)
    weights = sum(int(one.n_bytes) for one in tensors if not (untied and one.name == "token_embd.weight"))
    keys = sum(int(one.shape[1]) for one in tensors if one.name.endswith("attn_k.weight"))  # of all layers
    return weights, 2 * CACHE_BYTES * keys


def operators(nodes: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Instructions by kind of node, such as ``MUL_MAT q4_0`` and ``MUL_MAT q6_K (head)``.

    Each node was computed apart: what that takes is known from nodes that compute nothing, and is taken off.
    """
    empty = [one for one in nodes if one["op"] in _EMPTY]
    apart = sum(one["instructions"] for one in empty) / sum(one["nodes"] for one in empty)
    found = {}
    for one in nodes:
        if one["op"] not in _EMPTY:
            name = " ".join(filter(None, (one["op"], one["type"], "(head)" if one["head"] else "")))
            found[name] = max(0, round(one["instructions"] - apart * one["nodes"]))
    return found
