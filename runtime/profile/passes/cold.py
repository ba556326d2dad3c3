"""Cold start: a fresh process, and the bundle's files dropped from the system's page cache, as far as it lets us.

What counts is what a user waits for: libraries loaded, bundle opened, the first part of a turn done once. How much of
the files was in memory just before is measured (``mincore``), not assumed.
"""

from pathlib import Path
from time import perf_counter
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.prepared import find_form
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import Under, open_workload, opening, tell, wait_until_cool
from edgepress.runtime.profile.system.page_cache import drop, resident_share


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Drop what is cached, then load and do the smallest first part of a turn."""
    start = perf_counter()
    import onnxruntime  # noqa: F401 - the time of loading it is a part of a cold start

    libraries = perf_counter() - start
    cooled = wait_until_cool(arguments["cool_celsius"])
    how = opening(arguments)
    bundle = Path(how.bundle)
    form = find_form(bundle) if how.prepared else None
    files = [path for folder in (bundle, form) if folder is not None for path in folder.rglob("*") if path.is_file()]
    for path in files:
        drop(path)
    share = resident_share(files)
    with Under(how.cores_used) as under:
        start = perf_counter()
        work, load = open_workload(how)
        opened, size = perf_counter() - start, work.sizes[0]
        total = libraries + opened + work.begin(size)[0]
    measured = {
        "libraries_seconds": [libraries],
        "load_seconds": [load],
        f"cold_{work.first.quantity}": [total],
    }
    tell("cold", measured, {work.first.axis: size, "resident_share": share, "cooled": cooled}, under)
    return {}, {}


PASS = Pass(
    "cold",
    "first token or run of a fresh process whose files are not in memory",
    measure,
    ("cool_celsius",),
    Rounds.LEAST,
)
