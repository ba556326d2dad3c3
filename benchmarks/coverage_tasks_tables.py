"""Tables of coverage_tasks.py's samples: how many classes of each task are right, which, and why others are not."""

from collections.abc import Mapping, Sequence
from typing import Any

from common import table
from coverage_tables import VERDICTS, difference_or_reason


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """Counts by task; the classes of each that are right, with the largest difference of all; the others, with why."""
    tasks = {task: [one for one in samples if one["task"] == task] for task in sorted({one["task"] for one in samples})}
    counts = [[task, *_counts(found)] for task, found in tasks.items()]
    right = [[task, *_right(found)] for task, found in tasks.items() if any(one["verdict"] == "right" for one in found)]
    others = sorted(
        (one for one in samples if one["verdict"] != "right"),
        key=lambda one: (one["task"], VERDICTS.index(one["verdict"]), one["class"]),
    )
    rows = [[one["task"], f"`{one['class']}`", one["verdict"], difference_or_reason(one)] for one in others]
    total = ["all", *_counts(samples)]
    return "\n\n".join(
        [
            table(["task", *VERDICTS, "not tried yet"], [*counts, total]),
            table(["task", "right", "largest difference"], right),
            table(["task", "class", "edgepress", "why not"], rows),
        ]
    )


def _counts(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many have each verdict, and how many classes of their tasks are not among them."""
    known = sum({one["task"]: int(one["of"]) for one in samples}.values())
    return [
        *(str(sum(one["verdict"] == verdict for one in samples)) for verdict in VERDICTS),
        str(known - len(samples)),
    ]


def _right(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The classes that are right, and the largest of their differences."""
    right = sorted((one for one in samples if one["verdict"] == "right"), key=lambda one: str(one["class"]))
    names = ", ".join(f"`{one['class']}`" for one in right)
    return [names, f"{max(one['difference'] for one in right):.1e}"]
