"""onnxruntime-genai on emulated ARM: its builder's 4-bit model of its own defaults, in its own wheel for arm64.

The wheel is of the version that is installed here, fetched by pip, which checks it; the onnxruntime in it is the one
that the emulator has.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from arm_instructions import CONTEXTS, Machine, Sample, Subject
from common import WORK
from export_cost import TOKENIZER
from make_checkpoint import SHAPES, make

from edgepress.disk.files import atomic_directory
from edgepress.exporter.model.reading import resolve_model
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime.measures.counting.touched import weights_of
from edgepress.targets.emulator import Call, find_system, setup
from edgepress.targets.emulator.packages import PYTHON, WHEEL_PLATFORMS
from edgepress.targets.emulator.system import boot
from peers import genai_builder
from peers.counted import IN_MACHINE, asked, sample, versions_of
from peers.in_machine import run_genai

PACKAGE = f"onnxruntime-genai=={version('onnxruntime-genai')}"
FORMS = ("rtn",)
FEW_TOKENS = 1024  # of a vocabulary whose head takes next to nothing
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


@dataclass(frozen=True)
class _Cost:
    """What was counted of a call, or is added up of several, ``parts`` by operator; bytes are computed from shapes."""

    instructions: int
    parts: Mapping[str, int]
    weight_bytes: int
    cache_row: int

    def __add__(self, other: "_Cost") -> "_Cost":
        return self._with(other, 1)

    def __sub__(self, other: "_Cost") -> "_Cost":
        return self._with(other, -1)

    def _with(self, other: "_Cost", sign: int) -> "_Cost":
        names = [*self.parts, *(name for name in other.parts if name not in self.parts)]
        parts = {name: self.parts.get(name, 0) + sign * other.parts.get(name, 0) for name in names}
        numbers = ("instructions", "weight_bytes", "cache_row")
        found = {name: getattr(self, name) + sign * getattr(other, name) for name in numbers}
        return _Cost(parts=parts, **found)


_Costs = Mapping[tuple[int, int], _Cost]  # by context and tokens


def count(machine: Machine, cpu: str, subject: Subject, forms: Sequence[str]) -> Iterator[Sample]:
    """Build the subject by each of the builder's algorithms, and count it.

    The builder's graphs give the logits of every token: of a text of 1,024 tokens of a large vocabulary that is an hour
    of emulation for the head alone. So a shape is counted with a vocabulary of ``FEW_TOKENS``, and what the whole one
    takes more is counted after the shortest text, of one layer: the head is the same after every text and layer.
    """
    for form in forms:
        if subject.model in SHAPES:
            whole, few = (_made(subject.model, 1, vocab) for vocab in (SHAPES[subject.model].vocab, FEW_TOKENS))
            more = _counted(cpu, whole, form, CONTEXTS[:1])
            less = _counted(cpu, few, form, CONTEXTS)
            found = _counted(cpu, _made(subject.model, subject.layers, FEW_TOKENS), form, CONTEXTS)
            costs = {
                (context, tokens): cost + more[CONTEXTS[0], tokens] - less[CONTEXTS[0], tokens]
                for (context, tokens), cost in found.items()
            }
        else:
            costs = _counted(cpu, subject.checkpoint, form, CONTEXTS)
        versions = versions_of(machine, package=PACKAGE)
        for (context, tokens), cost in costs.items():
            told = {"context": context, "tokens": tokens, "instructions": [cost.instructions]}
            yield sample(
                ("onnxruntime-genai", form, cpu, subject),
                told,
                cost.parts,
                weight_bytes=cost.weight_bytes,
                cache_row=cost.cache_row,
                versions=versions,
            )


def _made(model: str, layers: int, vocab: int) -> str:
    """The folder of a checkpoint of that shape with fewer layers and tokens, made once."""
    folder = WORK / "arm" / f"{model}-{layers}-layers-{vocab}-tokens"
    if not folder.exists():
        make(replace(SHAPES[model], layers=layers, vocab=vocab), folder, tokenizer=TOKENIZER)
    return str(folder)


@cache
def _counted(cpu: str, checkpoint: str, form: str, contexts: tuple[int, ...]) -> _Costs:
    """Count what the builder makes of a checkpoint, in a boot of its own."""
    source = Checkpoint.open(resolve_model(checkpoint))
    path = WORK / "arm" / f"{Path(checkpoint).name}-genai-{form}"
    if not path.exists():
        genai_builder.build(source, path, form)
    files = {"bundle": path, "genai": wheel()} | IN_MACHINE
    [told] = boot(
        setup(), find_system(), cpu, [Call(run_genai, {"bundle": "/bundle", **asked(source, contexts)})], files
    )
    weights, row = weights_of(path / "model.onnx"), _cache_row(path)
    return {
        (call["context"], call["tokens"]): _Cost(
            min(call["instructions"]), call["operators"], weights.bytes_of(call["tokens"]), row
        )
        for call in told["calls"]
    }


def _cache_row(bundle: Path) -> int:
    """Bytes of a token's keys and values."""
    decoder = json.loads((bundle / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    numbers = decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
    return int(2 * numbers * CACHE_BYTES)
