"""Which models of transformers' other tasks are exported, and right: every class of every head, from its own config.

Each class's default config is made small, filled with random weights, saved, opened by its task and exported in
float32; the bundle's outputs are held against the class on inputs of several sizes. Small configs are those that
tests/transformers_models.py has, else tiny_configs.py makes them.

- right: no output differs by more than ``TOLERANCE`` of its largest value
- wrong: anything else that was exported
- refused: the export says why
- not made: transformers itself does not make or run a model of that config

    python benchmarks/coverage_tasks.py                      all of them, into results/coverage_tasks.jsonl (hours)
    python benchmarks/coverage_tasks.py --again              those that are not in that file yet
    python benchmarks/coverage_tasks.py fill-mask vit        print the verdicts of some tasks and types
"""

import argparse
import contextlib
import copy
import json
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the models are small
os.environ["HF_HUB_OFFLINE"] = "1"

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import torch
import transformers
from common import COMMIT, RESULTS, ROOT, save
from coverage_tables import difference_or_reason
from coverage_tasks_tables import report
from tiny_configs import draw, tiny_config

from edgepress.errors import CheckFailed, InputError
from edgepress.exporter.doors.agreement import TOLERANCE
from edgepress.exporter.doors.heads import Head, find_head, head_names
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.doors.ways.checkpoint import open_checkpoint
from edgepress.exporter.export import export_traced
from edgepress.sessions import open_on_cpu

sys.path.insert(0, str(ROOT / "tests"))
from transformers_models import MODELS, config_of

SECONDS = 600  # for one class, on a machine that does something else
BYTES = 12 << 30
MOST = 60_000_000  # weights of a model that is still tried
FEEDS = 3
_NOT_RUN = " cannot be called with "
ELSEWHERE = (  # the classes of feature-extraction, by what else a folder has and by what the class takes
    "sentence-similarity",
    "audio-feature-extraction",
    "image-feature-extraction",
)
_FILE = RESULTS / "coverage_tasks.jsonl"

Verdict = dict[str, Any]


def classes() -> Iterator[tuple[Head, str, str]]:
    """Each task with each type of model and class that it has: those of the tests, then all but texts, then those."""
    heads = [find_head(name) for name in head_names() if name not in ELSEWHERE]
    found = [
        (head, model_type, name)
        for head in heads
        for model_type in sorted(transformers.CONFIG_MAPPING)
        for name in head.classes(model_type)
    ]

    def order(one: tuple[Head, str, str]) -> tuple[bool, ...]:
        head, model_type, name = one
        written = name in MODELS and MODELS[name][0] == model_type
        return not written, head.name == "feature-extraction", "text" in head.name or "token" in head.name

    yield from sorted(found, key=order)


def configs(name: str, model_type: str) -> Iterator[transformers.PreTrainedConfig]:
    """The default config made small, then with few layers, then as it is: some sizes fit together in one way only."""
    if name in MODELS and MODELS[name][0] == model_type:
        yield config_of(name)
    with contextlib.suppress(Exception):  # whatever a config's class refuses
        yield tiny_config(model_type)
    with contextlib.suppress(Exception):
        config = transformers.CONFIG_MAPPING[model_type]()
        for key in ("num_hidden_layers", "encoder_layers", "decoder_layers"):
            if isinstance(getattr(config, key, None), int):
                setattr(config, key, 2)
        yield config
    with contextlib.suppress(Exception):
        yield transformers.CONFIG_MAPPING[model_type]()


def try_class(head: Head, model_type: str, name: str, folder: Path) -> Verdict:
    """The verdict on one class: on the first of its configs with which transformers runs it."""
    first: Verdict | None = None
    for number, config in enumerate(configs(name, model_type)):
        inner = folder / str(number)
        inner.mkdir()
        found = try_config(head, config, name, inner)
        if found["verdict"] != "not made" and _NOT_RUN not in found["reason"]:
            return found
        first = found if first is None else first
    return {"verdict": "not made", "reason": "its default config cannot be made" if first is None else first["reason"]}


def try_config(head: Head, config: transformers.PreTrainedConfig, name: str, folder: Path) -> Verdict:
    """The verdict on one class with this config."""
    checkpoint, work, bundle = folder / "checkpoint", folder / "work", folder / "bundle"
    try:
        torch.manual_seed(1)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in _class(name)(copy.deepcopy(config)).parameters())
        if size > MOST:
            return {"verdict": "not made", "reason": f"its default config cannot be made small: {size:,} weights"}
        model = _class(name)(config).eval()
        draw_all(model)
        model.save_pretrained(checkpoint)
    except Exception as error:  # whatever a library raises is a verdict
        return {"verdict": "not made", "reason": _said(error)}
    del model
    work.mkdir()
    try:
        traced = open_checkpoint(str(checkpoint), Options(head.name), work)
        export_traced(traced, out=bundle, recipe="fp32", target="x86-cpu", threads=1)
        worst = difference(traced, bundle)
    except InputError as error:
        return {"verdict": "refused", "reason": _said(error)}
    except Exception as error:  # whatever a library raises is a verdict
        return {"verdict": "wrong", "reason": _said(error)}
    right = worst <= TOLERANCE
    reason = "" if right else f"outputs differ by {worst:.1e} of the largest"
    return {"verdict": "right" if right else "wrong", "reason": reason, "difference": worst}


def difference(traced: Traced, bundle: Path) -> float:
    """The largest difference of an output on inputs of several sizes, as a share of its largest value."""
    assert traced.compute is not None
    session = open_on_cpu(bundle / "model.onnx")
    names, worst = [edge.name for edge in traced.task.outputs], 0.0
    for feed in islice(traced.examples(7), FEEDS):
        expected = traced.compute(feed)
        for name, found in zip(names, session.run(names, dict(feed)), strict=True):
            largest = max(float(np.abs(expected[name]).max(initial=0)), 1e-6)
            worst = max(worst, float(np.abs(expected[name] - found).max(initial=0)) / largest)
    return worst


def draw_all(model: torch.nn.Module) -> None:
    """Random weights as :func:`tiny_configs.draw`; convolutions keep their input's scale, norms have statistics."""
    draw(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 2:
                parameter.normal_(0.0, 1.2 * parameter[0].numel() ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.2)


def _class(name: str) -> Any:
    return getattr(transformers, name)


def _said(error: BaseException) -> str:
    """The first line of an error."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if isinstance(error, InputError | CheckFailed) else f"{type(error).__name__}: {text[:200]}"


def _child(send: Any, head: Head, model_type: str, name: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
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
        if not receive.poll(SECONDS):
            process.kill()
            return {"verdict": "not made", "reason": f"not done in {SECONDS} s"}
        found: Verdict = receive.recv()
        return found
    except EOFError:
        process.join()
        return {"verdict": "wrong", "reason": f"the process ended with {process.exitcode}"}
    finally:
        process.join()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("some", nargs="*", help="tasks and model_types; all by default")
    parser.add_argument("--again", action="store_true", help="go on with the file of results")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    import onnxscript.function_libs.torch_lib.ops.core  # noqa: F401 - once, not in each process

    known = list(classes())
    unknown = {*args.some} - {head.name for head, _, _ in known} - {kind for _, kind, _ in known}
    if unknown:
        sys.exit(f"no task or type of model is called {', '.join(sorted(unknown))}")
    samples: list[Verdict] = []
    if args.again and _FILE.is_file():
        samples = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()[1:]]
    done = {(sample["task"], sample["class"]) for sample in samples}
    tasks, kinds = {*args.some} & {*head_names()}, {*args.some} - {*head_names()}
    for head, kind, name in known:
        if (tasks and head.name not in tasks) or (kinds and kind not in kinds) or (head.name, name) in done:
            continue
        sample = {"commit": COMMIT, "task": head.name, "model_type": kind, "class": name, **apart(head, kind, name)}
        print(f"{head.name} {name}: {sample['verdict']} {difference_or_reason(sample)}", flush=True)
        samples.append(sample)
        done.add((head.name, name))
        if not args.some:
            save("coverage_tasks", samples)
    print(report(samples))


if __name__ == "__main__":
    main()
