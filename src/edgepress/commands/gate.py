"""``edgepress gate``: hold a bundle against a budget, for a build to fail by."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from edgepress.runtime.gate.gating import Gate
    from edgepress.runtime.measures.evaluate import LogitsSource
    from edgepress.runtime.tasks.kinds import TaskModel

NAME = "gate"
HELP = "hold a bundle against a budget of bytes, memory, time, energy, accuracy, instructions; exit 1 if one is broken"

_FORMS = ("junit", "sarif", "markdown")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a directory that an export wrote")
    parser.add_argument(
        "--budget", type=Path, required=True, metavar="FILE", help="TOML: a section a gauge, a rule a figure"
    )
    parser.add_argument(
        "--baseline", type=Path, metavar="PATH",
        help="what worse_by_most refers to: a bundle, measured in turn with this one, or a file of --update",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="local", metavar="NAME", help="as `edgepress devices` lists it (default: local)"
    )
    parser.add_argument("--update", action="store_true", help="write this bundle's figures to --baseline FILE and pass")
    parser.add_argument("--strict", action="store_true", help="fail, too, when a rule cannot be decided")
    for form in _FORMS:
        parser.add_argument(f"--{form}", type=Path, metavar="FILE", help=f"write the verdicts as {form}")
    parser.add_argument("--github", action="store_true", help="print annotations of GitHub Actions")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure, decide, report; exit 1 when a rule is broken."""
    import json
    import sys
    from dataclasses import asdict

    from edgepress.disk.files import atomic_file
    from edgepress.errors import InputError
    from edgepress.runtime.gate.gating import check_baseline, gate, write_baseline
    from edgepress.runtime.gate.reports import known_reports
    from edgepress.runtime.gate.verdict import Outcome

    if arguments.update and (arguments.baseline is None or arguments.baseline.is_dir()):
        raise InputError("--update writes a file of figures; name it with --baseline FILE")
    if arguments.update:
        check_baseline(arguments.baseline)  # before anything is measured
    found = gate(
        arguments.bundle,
        arguments.budget,
        baseline=None if arguments.update else arguments.baseline,
        device=arguments.device,
        reference_of=_reference,
        task_reference_of=_task_reference,
        told=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if arguments.update:
        write_baseline(arguments.baseline, found.baseline)
    reports = known_reports()
    for form in _FORMS:
        path = getattr(arguments, form)
        if path is not None:
            with atomic_file(path, replace=True) as file:
                file.write_text(reports[form].render(found), encoding="utf-8")
    if arguments.github:
        print(reports["github"].render(found), end="")
    if arguments.json:
        verdicts = [asdict(verdict) | {"outcome": verdict.outcome.value} for verdict in found.verdicts]
        print(json.dumps({"passed": found.passed, "verdicts": verdicts}, indent=2))
    else:
        print(_table(found))
    if arguments.update:
        print(f"  {arguments.baseline} has these figures now; nothing was held against an earlier one")
        return 0
    undecided = any(verdict.outcome is Outcome.UNDECIDED for verdict in found.verdicts)
    return 0 if found.passed and not (arguments.strict and undecided) else 1


def _table(found: "Gate") -> str:
    from edgepress.terminal.tables import format_table

    rows = [
        [verdict.outcome.value, f"{verdict.gauge}: {verdict.figure}", verdict.because] for verdict in found.verdicts
    ]
    return format_table(["", "figure", "why"], rows)


def _task_reference(model: "TaskModel", reference: str) -> "AbstractContextManager[TaskModel]":
    from edgepress.commands.eval import task_reference

    return task_reference(model, reference)


def _reference(bundle: Path, model: str) -> "LogitsSource":
    from edgepress.commands.eval import reference_for
    from edgepress.cores import usable_cores

    return reference_for(bundle, model, threads=usable_cores())
