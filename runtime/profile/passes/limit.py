"""The least memory with which the bundle answers: a turn of the largest size under real limits, each in a process."""

from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import open_workload, opening, tell
from edgepress.runtime.profile.system.memory_limit import Trial, run_under, smallest

_BEGIN = 256 << 20  # bytes


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Try the one limit that was asked for, or bisect for the smallest."""
    how = opening(arguments)

    def answer() -> None:
        work, _ = open_workload(how)
        work.begin(work.sizes[-1])
        work.steps(arguments["decode_tokens"] if work.then is not None else 1)

    def survives(limit_bytes: int) -> bool:
        trial = run_under(limit_bytes, answer)
        _tell(trial)
        return trial.survived

    asked = arguments["memory_limit_bytes"]
    if asked is not None:
        survives(asked)
    elif (found := smallest(survives, _BEGIN)) is not None:
        tell("smallest", {"limit_bytes": [float(found)]}, {})
    return {}, {}


def _tell(trial: Trial) -> None:
    detail = {"by": trial.by, "survived": trial.survived, "error": trial.error}
    tell("trial", {"limit_bytes": [float(trial.limit_bytes)]}, detail)


PASS = Pass(
    "limit",
    "the least memory with which the bundle answers, or whether it answers with what --memory-limit gives",
    measure,
    ("decode_tokens", "memory_limit_bytes"),
    Rounds.ONE,
    optional=True,
)
