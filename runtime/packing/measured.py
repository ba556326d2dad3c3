"""Memory of bundles that are open together: measured in a fresh process, which does once what each is for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgepress.bundle.packs import Memory
from edgepress.calls import Answer, Arrays, Call
from edgepress.errors import CheckFailed
from edgepress.runtime.machine.devices import open_device
from edgepress.runtime.machine.memory import read_memory
from edgepress.runtime.profile.default_opening import DECODED, default_opening
from edgepress.runtime.profile.rounds import open_workload, opening


def measure_memory(bundles: Sequence[Path]) -> Memory:
    """Resident memory of a fresh process in which all of ``bundles`` are open, and each has worked once.

    Raises:
        InputError: a bundle cannot be opened.
        CheckFailed: this system does not tell its memory.

    """
    arguments = {"openings": [default_opening(bundle) for bundle in bundles]}
    with open_device("local") as device:
        [(told, _)] = device.call([Call(work_together, arguments)])
    if None in told.values():
        raise CheckFailed("this system does not tell the memory of a process; pack without measuring")
    return Memory(**told)


def work_together(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Open every bundle, and keep it; memory before, at its highest, and at the end."""
    import onnxruntime  # noqa: F401 - an app has it once, whatever it opens

    before, works = read_memory().rss, []
    for asked in arguments["openings"]:
        work, _ = open_workload(opening({"opening": asked}))
        works.append(work)
    for work in works:
        work.begin(work.sizes[-1])
        if work.then is not None:
            work.steps(DECODED)
    after = read_memory()
    return {"process": before, "peak": after.peak_rss, "steady": after.rss}, {}
