"""Models that are no language models by every recipe, beside what optimum and onnxruntime make of them: is it as good?

python benchmarks/any_model.py [--optimum PYTHON] [--olive PYTHON] [--litert PYTHON] [--executorch PYTHON]
                               [--models MiniLM ResNet-20 MobileNetV2] [--rounds 15]

any_model_texts.py and any_model_images.py have the models, how they are scored and what is timed, any_model_peers.py
the other tools: each is a Python with the packages that ``--help`` names, in an environment of its own, and its rows
are left out without it. ONNX files run in one process and by one onnxruntime, the others in turn with them. Export
time and peak memory are of processes of their own; other tools trace, convert and quantize at once.
Times are medians of ratios to the float32 bundle's, taken in turn; each form waits before its turn until the threads
of the one before it no longer spin, and runs once unmeasured to wake its own.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import any_model_images
import any_model_peers
import any_model_texts
from any_model_subject import THREADS, Answer, Form, RefusedError, Subject
from common import WORK, save, table

Sample = dict[str, Any]
SETTLE = 0.02  # seconds; onnxruntime's worker threads spin for some milliseconds after a run, and take a core each


def times(opened: Sequence[Answer], batches: Mapping[str, Sequence[Any]], rounds: int) -> dict[str, list[list[float]]]:
    """Seconds a batch of each form for each kind of batch, ``rounds`` times in turn."""
    found: dict[str, list[list[float]]] = {}
    for kind, some in batches.items():
        found[kind] = [[] for _ in opened]
        for number in range(rounds + 1):
            for taken, answer in zip(found[kind], opened, strict=True):
                time.sleep(SETTLE)
                answer(some[0])
                start = time.perf_counter()
                away = 0.0
                for batch in some:
                    answer(batch)
                    away += getattr(answer, "on_the_way", 0.0)
                if number:  # the first one warms up
                    taken.append((time.perf_counter() - start - away) / len(some))
    return found


def measured(subject: Subject, rounds: int) -> list[Sample]:
    """Every form of one model: made, scored, timed."""
    work = WORK / "any_model" / subject.name.partition(" ")[0]
    work.mkdir(parents=True, exist_ok=True)
    kept: list[Form] = []
    samples: list[Sample] = []
    refused: list[Sample] = []
    reference, batches = None, subject.batches()
    for form in subject.forms(work):
        base = {"model": subject.name, "tool": form.tool, "form": form.name}
        try:
            if form.refused is not None:
                raise RefusedError(form.refused)
            with opened([form], max(THREADS)) as (answer,):
                scores, answers = subject.score(answer, reference)
                for some in batches.values():  # what a form refuses is known before it is timed
                    answer(some[0])
        except RefusedError as why:
            refused.append(base | {"refused": str(why)})
            continue
        reference = answers if reference is None else reference
        cost = {} if form.cost is None else {"export_s": form.cost.wall_s, "export_peak_bytes": form.cost.peak_bytes}
        samples.append(base | {"bytes": form.bytes} | cost | {"scores": scores, "times": []})
        kept.append(form)
    for threads in THREADS:
        with opened(kept, threads) as answers:
            taken = times(answers, batches, rounds)
        for kind, each in taken.items():
            for sample, seconds in zip(samples, each, strict=True):
                sample["times"].append({"threads": threads, "batch": kind, "seconds": seconds})
    return samples + refused


@contextmanager
def opened(forms: Sequence[Form], threads: int) -> Iterator[list[Answer]]:
    """The answers of forms, whose processes end behind it."""
    with ExitStack() as stack:
        answers = []
        for form in forms:
            answers.append(form.open(threads))
            if close := getattr(answers[-1], "close", None):
                stack.callback(close)
        yield answers


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A table for each model: cost of making, bytes, scores, and times by those of the float32 bundle."""
    names = dict.fromkeys(sample["model"] for sample in samples)
    return "\n\n".join(_table([sample for sample in samples if sample["model"] == name]) for name in names)


def _table(samples: Sequence[Mapping[str, Any]]) -> str:
    base = {_key(entry): entry["seconds"] for entry in samples[0]["times"]}
    rows = []
    for one in samples:
        if "refused" in one:
            rows.append(
                [one["tool"], f"{one['form']}: {one['refused']}", *[""] * (3 + len(samples[0]["scores"]) + len(base))]
            )
            continue
        ratios = [
            f"{statistics.median(a / b for a, b in zip(entry['seconds'], base[_key(entry)], strict=True)):.2f}"
            for entry in one["times"]
        ]
        made = ("export_s", 1, "{:.0f} s"), ("export_peak_bytes", 1e6, "{:.0f} MB")
        cost = [text.format(one[name] / unit) if name in one else "" for name, unit, text in made]
        scores = [f"{value:.4f}" for value in one["scores"].values()]
        rows.append([one["tool"], one["form"], *cost, f"{one['bytes'] / 1e6:.2f}", *scores, *ratios])
    header = ["tool", samples[0]["model"], "made in", "peak", "MB", *samples[0]["scores"], *base]
    takes = [f"{1e3 * statistics.median(seconds):.1f} ms" for seconds in base.values()]
    blank = [""] * (3 + len(samples[0]["scores"]))
    return table(header, [*rows, ["edgepress", "fp32 takes", *blank, *takes]])


def _key(entry: Mapping[str, Any]) -> str:
    return f"{entry['batch']}, {entry['threads']} thread{'s' * (entry['threads'] > 1)}"


def main() -> None:
    """Make every form, score it, time it; print the tables and keep the samples."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    any_model_peers.add_options(parser)
    parser.add_argument("--models", nargs="*", default=["MiniLM", "ResNet-20", "MobileNetV2"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    subjects = [any_model_texts.subject(options), *any_model_images.subjects(options)]
    environments = any_model_peers.versions(options)
    samples: list[Sample] = []
    for subject in subjects:
        if subject.name.partition(" ")[0] in options.models:
            samples += [sample | {"environments": environments} for sample in measured(subject, options.rounds)]
            print(save("any_model", samples), flush=True)
    print(report(samples))


if __name__ == "__main__":
    main()
