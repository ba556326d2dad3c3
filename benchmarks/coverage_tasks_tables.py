"""Tables of coverage_tasks.py's samples: how many classes of each task are right, and each class with its verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from common import table
from coverage_tables import VERDICTS, difference_or_reason


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """Counts by task; then each class with its verdict."""
    tasks = sorted({sample["task"] for sample in samples})
    counts = [
        [
            task,
            *(str(sum(one["task"] == task and one["verdict"] == verdict for one in samples)) for verdict in VERDICTS),
        ]
        for task in tasks
    ]
    order = sorted(samples, key=lambda one: (one["task"], VERDICTS.index(one["verdict"]), one["class"]))
    rows = [[one["task"], f"`{one['class']}`", one["verdict"], difference_or_reason(one)] for one in order]
    return "\n\n".join(
        [
            table(["task", *VERDICTS], counts),
            table(["task", "class", "edgepress", "largest difference, or why not"], rows),
        ]
    )
