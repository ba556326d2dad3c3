"""Which models of transformers' other tasks are exported, and right: every class of every head, from its own config.

Each class's default config is made small, filled with random weights, saved, and opened as `edgepress export` opens it,
by its task and in float32; the bundle's outputs are held against the class on inputs of several sizes
(coverage_verdicts.py). Small configs are those that tests/ has, else tiny_configs.py makes them.

- right: no output differs by more than 1e-4 of its largest value
- wrong: anything else that was exported
- refused: the export says why
- not made: transformers itself does not make or run a model of that config

One class of each type of model is tried, the tasks that apps ship first; then a second one of each, and so on. Each
has a process of its own with a limit on its processor time, so that a loaded machine changes no verdict.

    python benchmarks/coverage_tasks.py                      all of them, into results/coverage_tasks.jsonl (hours)
    python benchmarks/coverage_tasks.py --again              those that are not in that file yet
    python benchmarks/coverage_tasks.py --retry refused      those that were refused, anew
    python benchmarks/coverage_tasks.py fill-mask vit        print the verdicts of some tasks and types
"""

import argparse
import gc
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the models are small
os.environ["HF_HUB_OFFLINE"] = "1"

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import torch
import transformers
from common import COMMIT, RESULTS, save
from coverage_tables import VERDICTS, difference_or_reason
from coverage_tasks_tables import report
from coverage_verdicts import SEQUENCES, Verdict, try_class

from edgepress.exporter.doors.heads import Head, find_head, head_names
from edgepress.exporter.doors.tracing import Tracing, trace

SECONDS = 150  # of processor time for one class; most take 2 to 10
WAIT = 1800  # for one class by the clock, on a machine that does something else
BYTES = 12 << 30
ELSEWHERE = (  # the classes of feature-extraction, by what else a folder has and by what the class takes
    "sentence-similarity",
    "audio-feature-extraction",
    "image-feature-extraction",
)
FIRST = (  # what apps ship most
    *("image-classification", "object-detection", "semantic-segmentation", "depth-estimation"),
    *("audio-classification", "automatic-speech-recognition", *(head.name for head in SEQUENCES)),
    *("zero-shot-image-classification", "fill-mask", "text-classification", "token-classification"),
)
LAST = "feature-extraction"  # which nearly every type has
_FILE = RESULTS / "coverage_tasks.jsonl"


def classes() -> list[tuple[Head, str, str]]:
    """Each task with each type of model and class that it has: one of each type, then a second one, and so on."""
    heads = [*(find_head(name) for name in head_names() if name not in ELSEWHERE), *SEQUENCES]
    names = [*FIRST, *sorted({head.name for head in heads} - {*FIRST, LAST}), LAST]
    found = [
        (head, model_type, name)
        for head in sorted(heads, key=lambda head: names.index(head.name))
        for model_type in sorted(transformers.CONFIG_MAPPING)
        for name in dict.fromkeys(head.classes(model_type))
    ]
    turns = Counter[str]()

    def turn(one: tuple[Head, str, str]) -> int:
        turns[one[1]] += 1
        return turns[one[1]]

    return sorted(found, key=turn)


def _child(send: Any, head: Head, model_type: str, name: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    with tempfile.TemporaryDirectory(prefix="edgepress-coverage-") as folder, open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)  # onnxruntime writes there itself
        send.send(try_class(head, model_type, name, Path(folder)))


def apart(head: Head, model_type: str, name: str) -> Verdict:
    """:func:`try_class` in a process of its own, whose end, of memory or by a signal, is a verdict, too."""
    context = multiprocessing.get_context("fork")  # transformers and the exporter are imported once
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, head, model_type, name))
    process.start()
    send.close()
    try:
        if not receive.poll(WAIT):
            process.kill()
            return {"verdict": "not made", "reason": f"not done in {WAIT} s"}
        found: Verdict = receive.recv()
        return found
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return {"verdict": "not made", "reason": f"not done in {SECONDS} s of processor time"}
        return {"verdict": "wrong", "reason": f"the process ended with {process.exitcode}"}
    finally:
        process.join()


def warm_up() -> None:
    """Have torch and onnxscript make their tables of operators here, not in each process: half of a trace's time."""
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU(), torch.nn.LayerNorm(4)).eval()
    with tempfile.TemporaryDirectory() as folder:
        trace(Tracing(module=layers, inputs={"input": torch.zeros(2, 4)}, where="layers"), "warming", Path(folder))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("some", nargs="*", help="tasks and model_types; all by default")
    parser.add_argument("--again", action="store_true", help="go on with the file of results")
    parser.add_argument("--retry", choices=VERDICTS, action="append", help="go on, with those of a verdict anew")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)

    known = classes()
    names = {head.name for head, _, _ in known}
    unknown = {*args.some} - names - {kind for _, kind, _ in known}
    if unknown:
        sys.exit(f"no task or type of model is called {', '.join(sorted(unknown))}")
    samples: dict[tuple[str, str], Verdict] = {}
    if (args.again or args.retry) and _FILE.is_file():
        read = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()[1:]]
        samples = {(sample["task"], sample["class"]): sample for sample in read}
    totals = Counter(task for task, _ in {(head.name, name) for head, _, name in known})
    done = {key for key, sample in samples.items() if sample["verdict"] not in (args.retry or ())}
    tasks, kinds = {*args.some} & names, {*args.some} - names
    warm_up()
    gc.disable()  # of processes so short; and nothing of what is imported is copied by looking for it
    gc.freeze()
    for head, kind, name in known:
        key = head.name, name
        if (tasks and head.name not in tasks) or (kinds and kind not in kinds) or key in done:
            continue
        sample = {"commit": COMMIT, "task": head.name, "model_type": kind, "class": name, **apart(head, kind, name)}
        print(f"{head.name} {name}: {sample['verdict']} {difference_or_reason(sample)}", flush=True)
        samples[key] = sample
        done.add(key)
        if not args.some or args.again or args.retry:
            save("coverage_tasks", _counted(samples, totals))
    print(report(_counted(samples, totals)))


def _counted(samples: Mapping[tuple[str, str], Verdict], totals: Mapping[str, int]) -> list[Verdict]:
    """The samples, each with how many classes its task has."""
    return [{**sample, "of": totals[task]} for (task, _), sample in samples.items()]


if __name__ == "__main__":
    main()
