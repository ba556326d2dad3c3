"""Jobs spread over the cores, each one's samples kept as it ends: a run that is killed goes on where it stopped."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from common import host

Sample = dict[str, Any]


class Job(Protocol):
    """One piece of work, sent to another process. No other job of the run has its ``key``."""

    @property
    def key(self) -> str:
        """What is measured, and on what: samples under this key need not be taken again."""
        ...

    def __call__(self) -> list[Sample]:
        """Measure."""
        ...


def run(jobs: Sequence[Job], partial: Path, *, processes: int, show: Callable[[Sample], None]) -> list[Sample]:
    """Do the jobs, and return their samples in the order of the jobs.

    Samples go into ``partial`` as they come, and are taken from it when a run on the same host and versions left it
    behind. The caller removes it when the samples are safe elsewhere. A job that fails ends the run; what others have
    found stays there.
    """
    done = _left_behind(partial)
    todo = [job for job in jobs if job.key not in done]
    if len(todo) < len(jobs):
        print(f"{partial}: {len(jobs) - len(todo)} of {len(jobs)} are done already; remove it to measure them again")
    processes_here = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_end_with_parent)
    with processes_here as pool, partial.open("a", encoding="utf-8") as file:
        running = {pool.submit(job): job for job in todo}
        try:
            for future in as_completed(running):
                key = running[future].key
                done[key] = future.result()
                file.write(json.dumps({"key": key, "samples": done[key]}) + "\n")
                file.flush()
                for sample in done[key]:
                    show(sample)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [sample for job in jobs for sample in done[job.key]]


def _end_with_parent() -> None:
    """Let a worker whose parent is killed end too: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _left_behind(partial: Path) -> dict[str, list[Sample]]:
    """Samples by key; the file is written anew without the line that a kill cut short, or begun."""
    lines = partial.read_text(encoding="utf-8").splitlines(keepends=True) if partial.is_file() else []
    here = json.dumps(host()) + "\n"
    kept = [line for line in lines[1:] if line.endswith("\n")] if lines[:1] == [here] else []
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text("".join([here, *kept]), encoding="utf-8")
    return {entry["key"]: entry["samples"] for entry in map(json.loads, kept)}
