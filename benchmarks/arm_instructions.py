"""How many instructions does a token take on ARM, by tool and by operator, and how many bytes does it touch?

Counted on emulated machines (``edgepress emulator setup --system`` first), one thread: a token decoded after texts of
``CONTEXTS`` tokens, and ``PREFILL`` tokens at once. Counts are the same at every boot, so anyone can make them again;
they are no times. Models of real shapes have random weights and their first ``LAYERS`` layers only: layers are alike,
so that the whole is scaled from two of them, which the tables say; one more depth shows how well that holds.

    python benchmarks/arm_instructions.py [--tools edgepress] [--models demo smollm2-135m] [--forms int4-128] [--cpus …]

What is counted anew replaces the same samples of before; all others stay. ``--gate`` counts the two small bundles that
a test holds every checkout to: do that when a version changes, or when the graph is meant to cost something else.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from arm_instructions_picture import draw
from arm_instructions_tables import report
from common import RESULTS, ROOT, WORK, read_sample, save
from export_cost import TOKENIZER
from make_checkpoint import SHAPES, make

from edgepress.exporter import export
from edgepress.runtime.config import read_config
from edgepress.runtime.measures.counting import BundleCost, count_bundles
from edgepress.targets.emulator import Installation, System, find_system, setup

NAME = "arm_instructions"
PICTURE = ROOT / "docs" / f"{NAME}.svg"
CPUS = ("cortex-a76", "neoverse-n2")
CONTEXTS, PREFILL = (64, 1024), (128,)
MODELS = ("demo", "smollm2-135m", "qwen2.5-0.5b")
DEMO_LAYERS = 3
GATE = RESULTS / "arm_gate.json"  # what a test holds this checkout to
GATE_CPU, GATE_SHARE = "cortex-a76", 1e-3
GATE_VERSIONS = ("onnxruntime", "qemu", "kernel")  # Python and numpy have no part in what onnxruntime takes
LAYERS = {"smollm2-135m": (1, 2, 4), "qwen2.5-0.5b": (1, 2, 3)}  # of those that are scaled
TOOLS = {"edgepress": __name__, "llama.cpp": "peers.llama_cpp_arm", "onnxruntime-genai": "peers.genai_arm"}
"""Modules that count a tool: FORMS, what it is counted as, and count(machine, cpu, subject, forms) of samples."""

FORMS = ("int4", "int4-128", "int8", "int4 float16", "int4-128 float16")
"""Recipes of ours; with float16 these processors run the graph in float16 that bundles for some targets have."""
FLOAT_TARGET, HALF_TARGET = "x86-cpu", "arm64-cpu"  # what a bundle of one graph, and of both, is exported for

Machine = tuple[Installation, System]


@dataclass(frozen=True)
class Subject:
    """A model that is counted: ``layers`` of its ``of_layers``; ``checkpoint`` is a folder, of the demo its name."""

    model: str
    layers: int
    of_layers: int
    checkpoint: str

    @property
    def folder(self) -> str:
        """A name for what is made of it."""
        return f"{self.model}-{self.layers}-layers"


@dataclass(frozen=True)
class Sample:
    """One call that was counted: ``tokens`` at once after a text of ``context``, on one processor, by one thread.

    ``in_engine`` are the instructions without those of the program around the engine (our Python); ``operators`` has
    the instructions of each kind of node, None where the tool does not tell. Bytes are computed from shapes.
    """

    tool: str
    model: str
    layers: int
    of_layers: int
    form: str
    cpu: str
    tokens: int
    context: int
    instructions: int
    in_engine: int
    operators: Mapping[str, int] | None
    weight_bytes_loaded: int | None
    state_bytes_loaded: int | None
    state_bytes_stored: int | None
    versions: Mapping[str, str]

    @property
    def key(self) -> tuple[object, ...]:
        """What another count of the same has, too."""
        return (self.tool, self.model, self.layers, self.form, self.cpu, self.tokens, self.context)


def subjects(models: Sequence[str], layers: Sequence[int] = ()) -> Iterator[Subject]:
    """The models at each of their depths, or at those of ``layers``; checkpoints that are not there yet are made."""
    for model in models:
        if model not in SHAPES:
            yield Subject(model, DEMO_LAYERS, DEMO_LAYERS, model)
            continue
        for depth in LAYERS[model]:
            if layers and depth not in layers:
                continue
            subject = Subject(model, depth, SHAPES[model].layers, str(WORK / "arm" / f"{model}-{depth}-layers"))
            if not Path(subject.checkpoint).exists():
                shape = dataclasses.replace(SHAPES[model], layers=depth)
                make(shape, Path(subject.checkpoint), tokenizer=TOKENIZER)
            yield subject


def count(machine: Machine, cpu: str, subject: Subject, forms: Sequence[str]) -> Iterator[Sample]:
    """Export the subject by each recipe, unless that is done, and count all in one boot."""
    bundles = []
    for form in forms:
        recipe, _, half = form.partition(" ")
        bundles.append(WORK / "arm" / f"{subject.folder}-{form.replace(' ', '-')}")
        if not bundles[-1].exists():
            export(subject.checkpoint, out=bundles[-1], recipe=recipe, target=HALF_TARGET if half else FLOAT_TARGET)
    longest = read_config(bundles[0]).context_length
    contexts = [context for context in CONTEXTS if context + max(PREFILL) <= longest]
    costs = count_bundles(*machine, bundles, [cpu], prefill=PREFILL, contexts=contexts, by_operator=True)
    for form, cost in zip(forms, costs, strict=True):
        yield from samples_of(subject, form, cost)


def samples_of(subject: Subject, form: str, cost: BundleCost) -> Iterator[Sample]:
    """A bundle's cost as samples."""
    for call in cost.calls:
        yield Sample(
            tool="edgepress",
            **{field.name: getattr(subject, field.name) for field in dataclasses.fields(subject)[:3]},
            form=form,
            cpu=cost.cpu,
            tokens=call.tokens,
            context=call.context,
            instructions=call.instructions,
            in_engine=call.in_onnxruntime,
            operators=call.parts,
            weight_bytes_loaded=call.weight_bytes_loaded,
            state_bytes_loaded=call.state_bytes_loaded,
            state_bytes_stored=call.state_bytes_stored,
            versions=cost.versions,
        )


def gate_bundles(folder: Path) -> dict[str, Path]:
    """Bundles that every checkout makes alike: one layer of a real shape, a small vocabulary, random weights.

    By what ``GATE_CPU`` runs of each: its graph in float32, or the one in float16.
    """
    shape = dataclasses.replace(SHAPES["qwen2.5-0.5b"], layers=1, vocab=1024)
    make(shape, folder / "checkpoint", tokenizer=TOKENIZER)
    found = {"float32": folder / "float32", "float16": folder / "float16"}
    for out, target in zip(found.values(), (FLOAT_TARGET, HALF_TARGET), strict=True):
        export(folder / "checkpoint", out=out, recipe="int4-128", target=target)
    return found


def count_gate(machine: Machine, bundles: Sequence[Path]) -> list[dict[str, Any]]:
    """Instructions within onnxruntime of a decoded token and of a short prompt, and the versions they depend on."""
    costs = count_bundles(*machine, bundles, [GATE_CPU], contexts=[64], prefill=[32])
    return [
        {
            "graph": cost.graph,
            "versions": {name: cost.versions[name] for name in GATE_VERSIONS},
            "instructions": {f"{call.tokens} after {call.context}": call.in_onnxruntime for call in cost.calls},
        }
        for cost in costs
    ]


def differing(counted: Mapping[str, int], committed: Mapping[str, int]) -> list[str]:
    """Calls that take more or fewer instructions than is committed, and how many; none within ``GATE_SHARE``."""
    return [
        f"{call}: {counted[call]:,} instructions, committed are {expected:,}"
        for call, expected in committed.items()
        if abs(counted[call] - expected) > GATE_SHARE * expected
    ]


def kept() -> list[dict[str, Any]]:
    """The samples there are."""
    path = RESULTS / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def keep(counted: Sequence[Sample]) -> None:
    """Put samples in the place of the same ones of before, and keep the rest."""
    new: dict[tuple[object, ...], Mapping[str, Any]] = {one.key: dataclasses.asdict(one) for one in counted}
    for old in kept():
        new.setdefault(read_sample(Sample, old).key, old)
    save(NAME, sorted(new.values(), key=_order))


def _order(sample: Mapping[str, Any]) -> tuple[Any, ...]:
    at = MODELS.index(sample["model"]) if sample["model"] in MODELS else len(MODELS)
    rest = ("model", "cpu", "tool", "form", "layers", "context", "tokens")
    return (at, *(sample[name] for name in rest))


def main() -> None:
    """Count what is asked for and keep it, print the tables, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--forms", nargs="*", help="default: all of each tool")
    parser.add_argument("--cpus", nargs="*", default=list(CPUS))
    parser.add_argument("--layers", nargs="*", type=int, default=[], help="default: all depths of each model")
    parser.add_argument("--gate", action="store_true", help=f"count what a test is held to, {GATE.name}, and no more")
    parser.add_argument("--draw", action="store_true", help="count nothing; tables and picture of what there is")
    arguments = parser.parse_args()
    if arguments.gate:
        with TemporaryDirectory() as folder:
            bundles = gate_bundles(Path(folder))
            counted = count_gate((setup(), find_system()), list(bundles.values()))
        gate = {"versions": counted[0]["versions"]}
        gate |= {name: one["instructions"] for name, one in zip(bundles, counted, strict=True)}
        GATE.write_text(json.dumps(gate, indent=2) + "\n", encoding="utf-8")
        return
    if not arguments.draw:
        count_all((setup(), find_system()), arguments)
    found = kept()
    print(report(found))
    draw(found, PICTURE)


def count_all(machine: Machine, arguments: argparse.Namespace) -> None:
    """Count and keep what is asked for."""
    for cpu in arguments.cpus:
        for subject in subjects(arguments.models, arguments.layers):
            for tool in arguments.tools:
                module = import_module(TOOLS[tool])
                forms = [form for form in module.FORMS if arguments.forms is None or form in arguments.forms]
                keep(list(module.count(machine, cpu, subject, forms)))
                print(f"{tool}, {subject.folder}, {cpu}: counted", flush=True)


if __name__ == "__main__":
    main()
