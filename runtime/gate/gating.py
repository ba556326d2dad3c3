"""The story of a gate: read the budget, take the figures of this bundle and of what it is held against, decide."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from edgepress import __version__
from edgepress.bundle.manifest import MANIFEST_NAME, bundle_hash
from edgepress.disk.files import atomic_file, write_json
from edgepress.errors import InputError
from edgepress.processor import cpu_name
from edgepress.runtime.gate.budget import Section, read_budget
from edgepress.runtime.gate.figures import Figure, Request
from edgepress.runtime.gate.gauges import known_gauges
from edgepress.runtime.gate.verdict import Outcome, Verdict, judge
from edgepress.runtime.measures.evaluate import LogitsSource
from edgepress.runtime.tasks.kinds import TaskModel

_SCHEMA = 1

Told = Callable[[str], None]
ReferenceOf = Callable[[Path, str], LogitsSource]
TaskReferenceOf = Callable[[TaskModel, str], AbstractContextManager[TaskModel]]


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures of an earlier gate, by gauge and name, and what they were taken on and how.

    ``processor`` is that of the machine that asked: what is timed there says nothing of another one.
    """

    schema: int
    taken: str
    edgepress: str
    bundle_hash: str | None
    device: str
    processor: str
    options: dict[str, dict[str, Any]]
    figures: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Gate:
    """What came of a budget: a verdict for each rule, and the figures to compare with next time."""

    bundle: str
    device: str
    verdicts: tuple[Verdict, ...]
    baseline: Baseline

    @property
    def passed(self) -> bool:
        """Whether no rule is broken."""
        return not any(verdict.outcome is Outcome.BROKEN for verdict in self.verdicts)


def gate(
    bundle: str | Path,
    budget: str | Path,
    *,
    baseline: str | Path | None = None,
    device: str = "local",
    reference_of: ReferenceOf | None = None,
    task_reference_of: TaskReferenceOf | None = None,
    told: Told = lambda _line: None,
) -> Gate:
    """Hold a bundle against a budget.

    Args:
        bundle: the directory that an export wrote.
        budget: a TOML file; see :mod:`edgepress.runtime.gate.budget`.
        baseline: what ``worse_by_most`` refers to: another bundle, which is measured in turn with this one, or a file
            that :func:`write_baseline` wrote.
        device: where it is measured.
        reference_of: opens a checkpoint for ``kl_nats``.
        task_reference_of: opens what an open bundle with a task was made from, for [score]; bundles where it is None.
        told: hears in a line what happens.

    Raises:
        InputError: the bundle, the budget or the baseline cannot be used; a baseline was not measured alike.
        EdgepressError: the device cannot be reached.

    """
    bundle, sections = Path(bundle), read_budget(Path(budget), known_gauges())
    other = None if baseline is None else Path(baseline)
    noted = None if other is None or other.is_dir() else _read_baseline(other, sections, device)
    verdicts, figures = [], {}
    for section in sections:
        bundles = [bundle, *([other] if other is not None and other.is_dir() else [])]
        requests = [
            Request(path, device, tuple(section.rules), section.options, told, reference_of, task_reference_of)
            for path in bundles
        ]
        ours, *theirs = section.gauge.take(requests)
        before = {figure.name: figure for figure in theirs[0]} if theirs else _noted(section, ours, noted)
        for figure in ours:
            if figure.name in section.rules:
                verdicts.append(judge(section.gauge.name, figure, section.rules[figure.name], before.get(figure.name)))
        figures[section.gauge.name] = {figure.name: list(figure.observations) for figure in ours if not figure.unknown}
    taken = Baseline(
        schema=_SCHEMA,
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        edgepress=__version__,
        bundle_hash=bundle_hash(bundle) if (bundle / MANIFEST_NAME).is_file() else None,
        device=device,
        processor=cpu_name(),
        options={section.gauge.name: section.options for section in sections},
        figures=figures,
    )
    return Gate(str(bundle), device, tuple(verdicts), taken)


def write_baseline(path: Path, taken: Baseline) -> None:
    """Write the figures of a gate, whole or not at all, for the next one to be held against.

    Raises:
        InputError: a file that is no baseline is there, or the folder cannot be written.

    """
    check_baseline(path)
    with atomic_file(path, replace=True) as file:
        write_json(file, msgspec.to_builtins(taken))


def check_baseline(path: Path) -> None:
    """Refuse a place for a baseline where something else lies.

    Raises:
        InputError: what is there is no baseline.

    """
    if path.exists() or path.is_symlink():
        _parsed(path)


def _parsed(path: Path) -> Baseline:
    """A baseline's file, of whatever it was taken."""
    try:
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), Baseline)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; `gate --update` writes a baseline") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise InputError(f"{path} is no baseline: {error}; `gate --update` writes one, or give a bundle") from None


def _read_baseline(path: Path, sections: list[Section], device: str) -> Baseline:
    """A baseline's file that was measured alike."""
    found = _parsed(path)
    if found.schema != _SCHEMA:
        raise InputError(
            f"{path} has schema {found.schema}; this edgepress reads {_SCHEMA}: take it anew with --update"
        )
    if found.device != device:
        raise InputError(f"{path} was taken on {found.device}, not on {device}; take one there with --update")
    for section in sections:
        before = found.options.get(section.gauge.name, section.options)
        if before != section.options:
            differing = [name for name in section.options if before.get(name) != section.options[name]]
            said = ", ".join(f"{name} {before.get(name)!r}, not {section.options[name]!r}" for name in differing)
            raise InputError(f"{path}: [{section.gauge.name}] was measured with {said}; take it anew with --update")
    return found


def _noted(section: Section, ours: list[Figure], noted: Baseline | None) -> dict[str, Figure]:
    """Figures of a baseline's file, in the form of ours; those that are not exact are unknown on another processor."""
    if noted is None:
        return {}
    here, values = cpu_name(), noted.figures.get(section.gauge.name, {})
    another = f"it was taken on {noted.processor}, and this is {here}; give a bundle, which is measured in turn"
    return {
        figure.name: replace(
            figure,
            observations=tuple(values[figure.name]),
            unknown="" if figure.exact or noted.processor == here else another,
        )
        for figure in ours
        if figure.name in values
    }
