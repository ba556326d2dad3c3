"""Bundles measured alike: the same settings, the same device, round by round in turn."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgepress.errors import InputError
from edgepress.runtime.gate.figures import Request
from edgepress.runtime.profile.profiling import profile
from edgepress.runtime.profile.records import Profile
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.workloads import find_kind

TEXT, GRAPH, SEQUENCES = "language model", "graph", "encoder-decoder"
"""Kinds of bundles, as :mod:`edgepress.runtime.profile.workloads` names them."""


def profiles(
    requests: Sequence[Request], passes: Sequence[str], *, rounds: int, prompt_length: int = 64
) -> list[list[Profile]]:
    """Take ``rounds`` profiles of each request's bundle, one round each, the bundles in turn; return them by request.

    Every profile is one fresh process a pass, so that a list of them is a list of independent rounds. A language model
    reads a prompt of ``prompt_length`` tokens where the request says nothing of it.
    """
    found: list[list[Profile]] = [[] for _ in requests]
    with tempfile.TemporaryDirectory(prefix="edgepress-gate-") as folder:
        for number in range(rounds):
            for index, request in enumerate(requests):
                request.told(f"{', '.join(passes)}: round {number + 1} of {rounds}, {request.bundle}")
                out = Path(folder) / f"{number}-{index}.jsonl"
                settings = _settings(request, prompt_length)
                found[index].append(
                    profile(request.bundle, out=out, device=request.device, settings=settings, passes=passes)
                )
    return found


def _settings(request: Request, prompt_length: int) -> Settings:
    """The request's options as settings; what its kind of bundle does not have is refused by the profile."""
    options, kind = request.options, find_kind(request.bundle)
    length = options.get("prompt_length") or (prompt_length if kind.name == TEXT else None)
    rows = options.get("rows")
    given = {name: options[name] for name in ("decode_tokens", "idle_seconds") if options.get(name) is not None}
    return Settings(
        prompt_lengths=None if length is None else (length,),
        rows=None if rows is None else (rows,),
        length=options.get("length"),
        threads=options["threads"],
        exact_rounds=1,
        **given,
    )


def only_figures_of(requests: Sequence[Request], section: str, kinds: Mapping[str, Sequence[str]]) -> str:
    """The kind of the requests' bundles, of which every figure with a rule is.

    ``kinds`` says of which kinds of bundles each figure of a budget's ``section`` is.

    Raises:
        InputError: a rule is about what such a bundle does not have, so it could never be decided; or the bundles are
            not of one kind.

    """
    found = {request.bundle: find_kind(request.bundle).name for request in requests}
    for request in requests:
        kind = found[request.bundle]
        for name in request.names:
            if kind not in kinds[name]:
                own = [figure for figure, of in kinds.items() if kind in of]
                remedy = f"take {', '.join(own)}" if own else "leave the section out"
                raise InputError(
                    f"[{section}]: {name} is of bundles of the kind {' or '.join(kinds[name])}, and {request.bundle} "
                    f"is of the kind {kind}; {remedy}"
                )
    if len(set(found.values())) > 1:
        said = ", ".join(f"{bundle} is of the kind {kind}" for bundle, kind in found.items())
        raise InputError(f"{said}: they cannot be held against each other")
    return next(iter(found.values()))
