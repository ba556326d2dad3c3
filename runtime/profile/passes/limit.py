"""The least memory with which the bundle answers: a prompt and an answer under real limits, each in its own process."""

from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import decode_steps, opening, prompt_of, tell
from edgepress.runtime.profile.system.memory_limit import Trial, run_under, smallest

_BEGIN = 256 << 20  # bytes


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Try the one limit that was asked for, or bisect for the smallest."""
    how = opening(arguments)

    def answer() -> None:
        model, _ = how.open()
        logits = model.prefill(prompt_of(model, max(arguments["prompt_lengths"])))
        decode_steps(model, logits, arguments["decode_tokens"])

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
    ("prompt_lengths", "decode_tokens", "memory_limit_bytes"),
    Rounds.ONE,
    optional=True,
)
