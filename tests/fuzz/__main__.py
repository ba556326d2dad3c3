"""Hostile inputs for every file that edgepress reads, and what becomes of them.

    python -m tests.fuzz                              a few inputs of each kind
    python -m tests.fuzz --seconds 600                as many as fit, from a seed of its own
    python -m tests.fuzz --bundle 850 --checkpoint 700 --seed 0 --json counts.json
    python -m tests.fuzz --again bundle:17            one input once more, kept to be looked at

Exit code 0: every command ended cleanly (exit code 0, 1 or 2, and one clear error). 1: some did not; they are named
by kind and seed. Linux only: it needs /proc and resource limits.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RUST_BACKTRACE"] = "0"  # a panic of a library prints two lines, not its stack

from .cases import KINDS, make_case, sound_commands
from .judge import Verdict, judge_command


def main() -> int:
    """Run what the arguments ask; print a line for each fault and the counts."""
    arguments = _parse()
    folder = Path(tempfile.mkdtemp(prefix="edgepress-fuzz-")) if arguments.folder is None else arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        bases = folder / "bases" if arguments.bases is None else arguments.bases
        _make_bases(bases)
        _check_sound(bases, folder)
        if arguments.again:
            kind, seed = arguments.again.split(":")
            return _show(kind, int(seed), bases, folder)
        report = _run(arguments, bases, folder)
    finally:
        if arguments.folder is None and not arguments.again:
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["counts"], indent=1))
    return 1 if report["findings"] else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n", maxsplit=1)[0])
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, metavar="N", help=f"hostile inputs of this kind: {kind}")
    parser.add_argument("--seed", type=int, default=0, help="the first input's; the others follow")
    parser.add_argument("--seconds", type=float, help="go on for so long, kinds in turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write counts and findings here")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="work here, and leave it (default: temporary)")
    parser.add_argument("--bases", type=Path, metavar="DIR", help="sound inputs that an earlier run made")
    parser.add_argument("--again", metavar="KIND:SEED", help="make one input, run it and keep it")
    return parser.parse_args()


def _make_bases(bases: Path) -> None:
    """Import all that commands import, then make what hostile inputs are made from."""
    import onnx.reference  # noqa: F401 - imported before the fork, not once for every command
    import onnxruntime  # noqa: F401
    import torch

    import edgepress.exporter.learn.calibration.run
    import edgepress.exporter.methods.kinds
    import edgepress.runtime  # noqa: F401

    torch.set_num_threads(1)
    if bases.exists():
        return
    bases.mkdir(parents=True)
    child = os.fork()  # sessions start threads, which a process that forks must not have
    if child == 0:
        code = 1
        try:
            from edgepress.runtime.prepared import prepare

            from .bases import make_bases

            make_bases(bases)
            prepare(bases / "bundle-llama", cache=bases / "cache" / "prepared")
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        shutil.rmtree(bases)
        raise SystemExit("the sound inputs could not be made")


def _check_sound(bases: Path, folder: Path) -> None:
    """Hold that inputs which nothing was done to are accepted: else "clean" would mean nothing."""
    work = folder / "sound"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for command in sound_commands(bases, work):
        verdict = judge_command(command, work, work / "cache")
        if (verdict.outcome, verdict.code) != ("clean", 0):
            raise SystemExit(f"edgepress {' '.join(command)}: {_last(verdict)}")


def _run(arguments: argparse.Namespace, bases: Path, folder: Path) -> dict[str, object]:
    wanted = {kind: getattr(arguments, kind) for kind in KINDS}
    if arguments.seconds is not None:
        wanted = {kind: count if count is not None else sys.maxsize for kind, count in wanted.items()}
    elif not any(count is not None for count in wanted.values()):
        wanted = dict.fromkeys(KINDS, 10)
    end = time.monotonic() + (arguments.seconds or float("inf"))
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    findings: list[dict[str, object]] = []
    number = 0
    while time.monotonic() < end and any(number < (count or 0) for count in wanted.values()):
        for kind, count in wanted.items():
            if number < (count or 0) and time.monotonic() < end:
                found = _one(kind, arguments.seed + number, bases, folder)
                counts[kind]["inputs"] += 1
                counts[kind].update({finding["outcome"] for finding in found} or {"clean"})
                findings += found
        number += 1
    return {"counts": {kind: dict(count) for kind, count in counts.items() if count}, "findings": findings}


def _one(kind: str, seed: int, bases: Path, folder: Path) -> list[dict[str, object]]:
    """Run one input's commands; what is wrong with how they ended."""
    work = folder / f"{kind}-{seed}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    found = []
    try:
        case = make_case(kind, seed, bases, work)
        for command in case.commands:
            verdict = judge_command(command, work, work / "cache")
            if verdict.outcome != "clean":
                found.append({"kind": kind, "seed": seed, "input": case.said[:300], "command": " ".join(command)[:300]}
                             | asdict(verdict))  # fmt: skip
                print(f"{verdict.outcome:9} {kind}:{seed} {command[0]}: {case.said[:150]!r}: {_last(verdict)}")
                sys.stdout.flush()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


def _last(verdict: Verdict) -> str:
    lines = [line for line in verdict.said.splitlines() if line.strip()]
    said = lines[-1][-200:] if lines else ""
    return f"code {verdict.code}, {verdict.seconds:.1f} s, {verdict.peak / 1e6:.0f} MB: {said}"


def _show(kind: str, seed: int, bases: Path, folder: Path) -> int:
    """Run one input and leave it where it is."""
    work = folder / f"{kind}-{seed}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    case = make_case(kind, seed, bases, work)
    print(f"{work}\n{case.said}\n")
    wrong = False
    for command in case.commands:
        verdict = judge_command(command, work, work / "cache")
        wrong |= verdict.outcome != "clean"
        print(f"edgepress {' '.join(command)}\n  {verdict.outcome}, {_last(verdict)}\n{verdict.said[-1500:]}")
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
