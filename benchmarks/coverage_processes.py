"""Classes tried in processes of their own, several at a time, which begin where torch and the exporter are warm.

A process that crashes, runs out of memory or does not end is a verdict. Each is forked from one that has traced a model
already: what torch and onnxscript make once a process, tables of operators above all, is half of a small model's trace.
"""

import functools
import gc
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import transformers
from coverage_verdicts import Verdict, try_class

from edgepress.exporter.doors.heads import Head
from edgepress.exporter.doors.tracing import Tracing, trace
from edgepress.tasks.task import Axis

SECONDS = 150  # of processor time for one class; most take 2 to 10
WAIT = 3600  # for one class by the clock, on a machine that does something else
BYTES = 12 << 30


@dataclass(frozen=True)
class Trial:
    """A class to be tried for a task, on a model of so many layers, or as few more as have every kind of layer."""

    head: Head
    model_type: str
    name: str
    layers: int


def tried(trials: Iterable[Trial], jobs: int) -> Iterator[tuple[Trial, Verdict]]:
    """Each trial with its verdict, as they end; ``jobs`` at a time."""
    left, running = iter(trials), dict[Connection, _Running]()
    while True:
        while len(running) < jobs and (trial := next(left, None)) is not None:
            started = _Running.start(trial)
            running[started.receive] = started
        if not running:
            return
        first = min(one.until for one in running.values()) - time.monotonic()
        for receive in wait(list(running), max(first, 0)) or [min(running, key=lambda one: running[one].until)]:
            assert isinstance(receive, Connection)
            one = running.pop(receive)
            yield one.trial, one.verdict()


@dataclass(frozen=True)
class _Running:
    trial: Trial
    process: BaseProcess
    receive: Connection
    until: float  # by the monotonic clock

    @classmethod
    def start(cls, trial: Trial) -> "_Running":
        context = multiprocessing.get_context("fork")  # of what is imported here
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(send, trial))
        process.start()
        send.close()
        return cls(trial, process, receive, time.monotonic() + WAIT)

    def verdict(self) -> Verdict:
        """What it found, or how it ended."""
        try:
            if not self.receive.poll():
                self.process.kill()
                return {"verdict": "not made", "reason": f"not done in {WAIT} s"}
            found: Verdict = self.receive.recv()
            return found
        except EOFError:
            self.process.join()
            if self.process.exitcode == -signal.SIGXCPU:
                return {"verdict": "not made", "reason": f"not done in {SECONDS} s of processor time"}
            return {"verdict": "wrong", "reason": f"the process ended with {self.process.exitcode}"}
        finally:
            self.process.join()


def _child(send: Any, trial: Trial) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    with tempfile.TemporaryDirectory(prefix="edgepress-coverage-") as folder, open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)  # onnxruntime writes there itself
        send.send(try_class(trial.head, trial.model_type, trial.name, Path(folder), trial.layers))


def warm_up() -> None:
    """Have torch and onnxscript make their tables here, by tracing an encoder with free axes, and nothing be copied.

    Garbage is not collected in processes so short; looking for it would copy what they share.
    """
    _keep_operators()
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=16
    )
    tokens = torch.ones(2, 8, dtype=torch.int64)
    axes = {0: Axis("batch"), 1: Axis("length")}
    names = ("input_ids", "attention_mask")
    tracing = Tracing(
        module=transformers.BertModel(config).eval(),
        inputs=dict.fromkeys(names, tokens),
        where="an encoder",
        axes=dict.fromkeys(names, axes),
    )
    with tempfile.TemporaryDirectory() as folder:
        trace(tracing, "warming", Path(folder))
    gc.collect()
    gc.disable()
    gc.freeze()


def _keep_operators() -> None:
    """Have the exporter's operators read from their sources once; it does so for each model."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = functools.cache(ONNXRegistry.from_torchlib)

    def copied(opset_version: int) -> ONNXRegistry:
        whole, registry = read(opset_version=opset_version), ONNXRegistry()
        vars(registry).update(vars(whole), functions={key: [*found] for key, found in whole.functions.items()})
        return registry

    ONNXRegistry.from_torchlib = staticmethod(copied)
