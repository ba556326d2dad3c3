"""What does pruning cost and bring, before and after the model is retrained?

Each method alone, and half of the demo model's layers by several together, in float32, so that nothing but pruning is
seen: parameters, bytes, bits per byte of held-out text (that of accuracy.py) and the time of a decoded token; then the
same with ``retrain``, whose losses are drawn. One recipe prunes, retrains and rounds to 4 bits in one export. Zeros are
made as weights are rounded, so these rows have 4 bits, beside GPTQ's without zeros; ``distill`` recovers them.
Tokens are decoded in turn, bundle after bundle, round after round, on one thread; speeds are ratios to the unpruned
model's of the same round. Text for pruning and retraining is what accuracy.py calibrates on.

    python benchmarks/pruning.py [--data ../shared/data] [--models demo] [--documents 20] [--processes 1]

A run that is killed goes on where it stopped; one of some models leaves the samples of others as they are.
"""

import argparse
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from common import RESULTS, ROOT, TARGET, WORK, host, save, table
from spread import Sample, run
from subjects import CONTEXT, MODELS, STORIES, STRIDE, Measure, Subject, add_data, earlier, merge

from edgepress.bundle.manifest import read_manifest
from edgepress.cores import usable_cores
from edgepress.exporter import export
from edgepress.runtime import evaluate, load

DOCUMENTS = 20  # of 200, and as much of the demo's text
BUNDLES = WORK / "pruning"
PICTURES = ROOT / "docs" / "pruning"
DECODED, ROUNDS = 96, 7  # tokens a turn; turns
BRIEF = {"steps": 200, "batch": 8}
LONG = {"steps": 700, "batch": 8, "temperature": 2.0}  # softer than the text that the original knows by heart
TOKENS = 400_000  # of the text that training sees
Options = Mapping[str, object]


@dataclass(frozen=True)
class Pruned:
    """A recipe: the steps with their options, how long it learns, how its weights are rounded and to how many bits."""

    what: str
    steps: Mapping[str, Options] = field(default_factory=dict)
    retrain: Options | None = None
    bits: int = 32
    method: str = "rtn"
    distill: Options | None = None

    @property
    def name(self) -> str:
        """As the tables have it."""
        trained = "".join(f" + {name}, {options['steps']} steps" for name, options in self.learning.items())
        return self.what + trained + (f", {self.bits} bits" if self.bits < 32 else "")

    @property
    def learning(self) -> dict[str, Options]:
        """What learns, with its options."""
        return {name: found for name, found in (("retrain", self.retrain), ("distill", self.distill)) if found}

    @property
    def options(self) -> dict[str, Options]:
        """Of all methods that have any."""
        zeros = {self.method: {"sparsity": ZEROS}} if self.method in SPARSE else {}
        return dict(self.steps) | zeros | self.learning

    @property
    def slug(self) -> str:
        """As files are named."""
        return self.name.replace(" ", "-").replace(",", "").replace("+-", "")

    def write(self, path: Path) -> Path:
        """Write the recipe as a TOML file."""
        steps = [*self.steps, *(["retrain"] if self.retrain else [])]
        lines = [f"prune = {steps}", f"after = {['distill'] if self.distill else []}"]
        lines += ["[weights]", f'method = "{self.method}"', f"bits = {self.bits}", "block_size = 32"]
        lines += ["[calibration]", f"training_tokens = {TOKENS}"]
        for name, options in self.options.items():
            lines.append(f"[options.{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in options.items()]
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return path


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


VOCABULARY = {"demo": 640, "stories260k": 416, "tiny1m": 416}  # tokens to keep
METHODS: dict[str, Options] = {
    "vocabulary": {},
    "depth": {"share": 0.67},
    "mlp_width": {"share": 0.5},
    "heads": {"share": 0.5},
    "hidden": {"share": 0.75},
}
SPARSE, ZEROS = ("magnitude", "wanda", "sparsegpt"), 0.5
HALF: dict[str, Options] = {"hidden": {"share": 0.75}, "mlp_width": {"share": 0.53, "by": "loss"}}


def chosen(model: str) -> Iterator[Pruned]:
    """Yield what is measured of a model, the original first."""
    yield Pruned("original")
    for retrain in (None, BRIEF):
        for name, options in METHODS.items():
            is_tokens = name == "vocabulary"  # the original knows as little of the finer tokens: the text teaches them
            sized = {"size": VOCABULARY[model]} if is_tokens else options
            yield Pruned(name, {name: sized}, {**retrain, "truth": 1.0} if retrain and is_tokens else retrain)
    for distill in (None, BRIEF):
        yield Pruned("gptq", bits=4, method="gptq", distill=distill)
        for method in SPARSE:
            yield Pruned(f"{method}, half zeros", bits=4, method=method, distill=distill)
    if model == "demo":
        yield Pruned("half of the layers", HALF)
        yield Pruned("half of the layers", HALF, LONG)
        yield Pruned("half of the layers", HALF, {**LONG, "quantized": True}, bits=4)


def bundle_of(model: str, how: Pruned) -> Path:
    """Where a bundle stays, for the clock."""
    return BUNDLES / model / how.slug


def take(subject: Subject, folder: Path, how: Pruned) -> list[Sample]:
    """Export, score, and keep what the manifest says of the steps."""
    bundle, text = bundle_of(subject.name, how), folder / f"text{subject.suffix}"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(subject.calibration, encoding="utf-8")
    recipe = how.write(folder / "recipe.toml")
    start = perf_counter()
    manifest = export(
        subject.model, out=bundle, recipe=recipe, target=TARGET, calibration=[text], force=True, threads=1
    )
    seconds = perf_counter() - start
    found = evaluate(bundle, subject.texts, context=CONTEXT, stride=STRIDE, threads=1, prepared=False)
    tensors = [tensor for tensor in manifest.tensors if tensor["kind"] == "linear"]
    for picture in bundle.glob("*.svg"):
        PICTURES.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, PICTURES / f"{subject.name}-{how.slug}.svg")
    found = {
        "model": subject.name,
        "tool": "edgepress",
        "name": how.name,
        "bits_per_byte": found.bits_per_byte,
        "utf8_bytes": found.utf8_bytes,
        "layer_parameters": sum(_size(tensor["shape"]) for tensor in tensors),
        "parameters": sum(_size(tensor["shape"]) for tensor in manifest.tensors),
        "bytes": sum(int(str(tensor["bytes_after"])) for tensor in manifest.tensors),
        "steps": list(read_manifest(bundle).steps),
        "export_s": seconds,
    }
    return [found]


def _size(shape: object) -> int:
    assert isinstance(shape, list)
    product = 1
    for dimension in shape:
        product *= int(dimension)
    return product


def clock(bundles: Sequence[Path]) -> list[list[float]]:
    """Median milliseconds of a decoded token, a list of rounds for each bundle; round after round, all in turn."""
    models = [load(bundle, threads=1, prepared=False) for bundle in bundles]
    found: list[list[float]] = [[] for _ in bundles]
    for _ in range(ROUNDS + 1):
        for model, times in zip(models, found, strict=True):
            model.reset()
            logits = model.prefill(model.tokenizer.encode("Once upon a time"))
            steps = []
            for _ in range(DECODED):
                start = perf_counter()
                logits = model.decode(int(logits.argmax()))
                steps.append(perf_counter() - start)
            times.append(1e3 * statistics.median(steps))
    return [times[1:] for times in found]  # the first round warms up


def rows(samples: Sequence[Sample]) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows, beside the unpruned model of each."""
    for sample in samples:
        whole = next(one for one in samples if one["model"] == sample["model"])
        ratios = [b / a for a, b in zip(sample["ms_per_token"], whole["ms_per_token"], strict=True)]
        yield (
            sample["model"],
            sample["name"],
            f"{sample['parameters']:,}",
            f"{sample['layer_parameters'] / whole['layer_parameters']:.0%}",
            f"{sample['bytes'] / 1e6:.2f}",
            f"{sample['bits_per_byte']:.4f}",
            f"{round(sample['bits_per_byte'] / whole['bits_per_byte'] - 1, 4) + 0.0:+.1%}",
            f"{1e3 / statistics.median(sample['ms_per_token']):,.0f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        )


HEADER = ("model", "recipe", "parameters", "of the layers' weights", "MB", "bits per byte", "against the original")
HEADER += ("tokens/s", "speed ÷ the original's")


def report(samples: Sequence[Sample]) -> str:
    """The table, from raw samples."""
    return table(HEADER, rows(samples))


def main() -> None:
    """Export and score what is asked for, time it, keep the samples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help=f"score so many of {STORIES} stories")
    parser.add_argument("--processes", type=int, default=usable_cores())
    arguments = parser.parse_args()
    share = min(1.0, arguments.documents / STORIES)
    kept = earlier(RESULTS / "pruning.jsonl", arguments.models, whole=True)
    jobs = [Measure(model, arguments.data, share, how, take) for model in arguments.models for how in chosen(model)]
    partial = WORK / f"pruning-{'-'.join(arguments.models)}.partial.jsonl"
    samples = run(
        jobs,
        partial,
        processes=arguments.processes,
        show=lambda one: print(f"{one['model']} | {one['name']} | {one['bits_per_byte']:.4f}", flush=True),
    )
    for model in arguments.models:
        of_model = [(job, sample) for job, sample in zip(jobs, samples, strict=True) if job.model == model]
        for (_, sample), times in zip(of_model, clock([bundle_of(model, job.how) for job, _ in of_model]), strict=True):
            sample["ms_per_token"] = times
    samples = merge(kept, [{**one, "cpu": host()["cpu"]} for one in samples])
    print(f"raw samples: {save('pruning', samples)}")
    partial.unlink()
    print(report(samples))
    print(f"pictures of the losses: {PICTURES}")


if __name__ == "__main__":
    main()
