"""Speed: time to load, to the first token by prompt length, and of each further token, in rounds of fresh processes."""

from time import perf_counter
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import Under, decode_steps, opening, prompt_of, tell, wait_until_cool


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """One round: load, then each prompt length and decoding ``turns`` times, after one turn that is not kept."""
    cooled = wait_until_cool(arguments["cool_celsius"])
    how = opening(arguments)
    with Under(how.cores_used) as under:
        model, seconds = how.open()
    tell("load", {"load_seconds": [seconds]}, {"cooled": cooled, "ran_on": str(model.session.ran_on)}, under)
    for length in arguments["prompt_lengths"]:
        prompt = prompt_of(model, length)
        for turn in range(-1, arguments["turns"]):
            model.reset()
            with Under(how.cores_used) as under:
                start = perf_counter()
                model.prefill(prompt).argmax()
                seconds = perf_counter() - start
            if turn >= 0:
                tell("prefill", {"ttft_seconds": [seconds]}, {"length": length}, under)
    for _ in range(arguments["turns"]):
        model.reset()
        with Under(how.cores_used) as under:
            logits = model.prefill(prompt)  # not timed: the caches are the model's again, after files were read
            run = model.session.run_seconds
            steps = decode_steps(model, logits, arguments["decode_tokens"])
            run = model.session.run_seconds - run
        tell("decode", {"step_seconds": steps, "run_seconds": [run]}, {"length": len(prompt)}, under)
    return {}, {}


PASS = Pass(
    "speed",
    "load, time to first token, time of each further token",
    measure,
    ("prompt_lengths", "decode_tokens", "turns", "cool_celsius"),
    Rounds.UNTIL_PRECISE,
)
