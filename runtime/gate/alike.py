"""Bundles measured alike: the same settings, the same device, round by round in turn."""

import tempfile
from pathlib import Path

from edgepress.runtime.gate.figures import Request
from edgepress.runtime.profile.profiling import profile
from edgepress.runtime.profile.records import Profile
from edgepress.runtime.profile.settings import Settings


def profiles(requests: list[Request], passes: list[str], *, rounds: int) -> list[list[Profile]]:
    """Take ``rounds`` profiles of each request's bundle, one round each, the bundles in turn; return them by request.

    Every profile is one fresh process a pass, so that a list of them is a list of independent rounds.
    """
    found: list[list[Profile]] = [[] for _ in requests]
    with tempfile.TemporaryDirectory(prefix="edgepress-gate-") as folder:
        for number in range(rounds):
            for index, request in enumerate(requests):
                request.told(f"{', '.join(passes)}: round {number + 1} of {rounds}, {request.bundle}")
                out = Path(folder) / f"{number}-{index}.jsonl"
                found[index].append(
                    profile(request.bundle, out=out, device=request.device, settings=_settings(request), passes=passes)
                )
    return found


def _settings(request: Request) -> Settings:
    options = request.options
    return Settings(
        prompt_lengths=(options["prompt_length"],),
        decode_tokens=options["decode_tokens"],
        threads=options["threads"],
        exact_rounds=1,
        idle_seconds=options.get("idle_seconds", 10.0),
    )
