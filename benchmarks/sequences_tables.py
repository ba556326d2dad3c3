"""The tables of ``sequences.py``: what it takes depends on which of its three questions the samples answer."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common import group, table


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """Words reversed by recipe, bundles of published shapes, or operators of attention."""
    if "share" in samples[0]:
        return _reversing(samples)
    return _attention(samples) if "way" in samples[0] else _shapes(samples)


def _reversing(samples: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for (recipe,), found in group(samples, "recipe").items():
        shares = {one["beams"]: f"{one['share']:.1%}" for one in found}
        rows.append([recipe, f"{found[0]['megabytes']:.2f}", shares[1], shares[4]])
    return table(["recipe", "MB", "greedy", "4 beams"], rows)


def _shapes(samples: Sequence[Mapping[str, Any]]) -> str:
    ours = [one for one in samples if one["with"] != "transformers"]
    recipes = list(dict.fromkeys(one["with"] for one in ours))
    rows = []
    for (shape,), found in group(ours, "shape").items():
        megabytes = {one["with"]: f"{one['megabytes']:.0f}" for one in found}
        [exact] = [one["parity"]["logits_difference"] for one in found if one["with"] == "edgepress fp32"]
        rows.append([shape, *(megabytes[recipe] for recipe in recipes), f"{exact:.0e}"])
    names = [f"{recipe.removeprefix('edgepress ')}, MB" for recipe in recipes]
    return table(["shape", *names, "largest difference in fp32"], rows)


def _attention(samples: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for (way,), found in group(samples, "way").items():
        times = {one["beams"]: f"{1e6 * statistics.median(one['processor_seconds'][1:]):,.0f} µs" for one in found}
        rows.append([way, times[1], times.get(4, "")])
    return table(["attention to", "1 beam", "4 beams"], rows)
