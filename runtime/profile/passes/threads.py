"""How many threads decode fastest, of one to the number of fast cores: more is not always faster, and costs energy."""

from dataclasses import replace
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.cores import usable_cores
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import Under, decode_steps, opening, prompt_of, tell, wait_until_cool

_STEPS = 16
_REPEATS = 3


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Decode with 1, 2, 4 … threads and all fast cores, in turn, three times over."""
    wait_until_cool(arguments["cool_celsius"])
    how = opening(arguments)
    most = len(how.cores) if how.cores else usable_cores()
    candidates = sorted({*(2**power for power in range(most.bit_length())), most})
    models = {count: replace(how, threads=count).open()[0] for count in candidates}
    for _ in range(_REPEATS):
        for count, model in models.items():
            model.reset()
            logits = model.prefill(prompt_of(model, min(arguments["prompt_lengths"])))
            with Under(count) as under:
                steps = decode_steps(model, logits, min(_STEPS, arguments["decode_tokens"]))
            tell("candidate", {"step_seconds": steps}, {"threads": count}, under)
    return {}, {}


PASS = Pass(
    "threads",
    "how many threads decode fastest",
    measure,
    ("prompt_lengths", "decode_tokens", "cool_celsius"),
    Rounds.ONE,
)
