"""Sustained decoding: tokens without a pause for as long as was asked, in windows of a second, with clocks and heat.

A phone that is fast for ten seconds and slow after a minute is slow; when it becomes so, and by how much, is what the
summary reads from these windows.
"""

from time import perf_counter
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import Under, opening, prompt_of, tell, wait_until_cool

_WINDOW = 1.0  # s


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Decode until the time is over; the text begins anew, untimed, whenever the context is full."""
    cooled = wait_until_cool(arguments["cool_celsius"])
    how = opening(arguments)
    model, _ = how.open()
    prompt = prompt_of(model, min(arguments["prompt_lengths"]))
    logits = model.prefill(prompt)
    began = perf_counter()
    while perf_counter() - began < arguments["sustained_seconds"]:
        tokens, busy = 0, 0.0
        with Under(how.cores_used) as under:
            while busy < _WINDOW:
                if model.session.position >= how.context:
                    model.reset()
                    logits = model.prefill(prompt)
                start = perf_counter()
                logits = model.decode(int(logits.argmax()))
                busy += perf_counter() - start
                tokens += 1
        measured = {"window_seconds": [busy], "window_tokens": [float(tokens)], "at_seconds": [perf_counter() - began]}
        tell("window", measured, {"cooled": cooled}, under)
    return {}, {}


PASS = Pass(
    "sustained",
    "decoding without a pause: throughput, clocks and temperatures over time",
    measure,
    ("prompt_lengths", "sustained_seconds", "cool_celsius"),
    Rounds.ONE,
)
