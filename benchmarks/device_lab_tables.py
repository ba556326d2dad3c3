"""Tables of what device_lab.py measured. A part that nobody has measured says so, and has no figure."""

from collections.abc import Mapping, Sequence
from typing import Any

from common import SIZES, group, spread, table

PARTS = ("memory", "limit", "fit", "repeats", "slowdown", "in_turn", "gate", "overhead")
MODELS = ("demo", "smollm2-135m", "qwen2.5-0.5b")
_MISSING = "not measured yet"
_QUANTITIES = ("load_seconds", "ttft_seconds at 64", "step_seconds at 64")
_STEP = _QUANTITIES[-1]

Samples = Sequence[Mapping[str, Any]]


def report(samples: Samples) -> str:
    """Memory by model, then what repeated measurements came to, and what fitted figures said."""
    return "\n\n".join([memory_table(samples), repeated_table(samples), fit_table(samples)])


def fit_table(samples: Samples) -> str:
    """Milliseconds of each call by a device's fitted figures, and as they were measured."""
    by_model = group((one for one in samples if one["part"] == "fit"), "model")
    rows = []
    for (model,), (one,) in by_model.items():
        named = SIZES.get(model, f"{model} shape, random weights")
        for call, found in one["calls"].items():
            said, took = 1e3 * found["predicted"], 1e3 * found["measured"]
            load = f"{one['load_average']:.1f}{', ahead of it' if one['ahead'] else ''}"
            cells = [f"{said:,.1f}", f"{took:,.1f}", f"{said / took:.3f}"]
            rows.append([named, str(one["threads"]), call.replace("_seconds", ""), *cells, load])
    header = ["model", "threads", "call", "predicted ms", "measured ms", "÷ measured", "load of the machine"]
    return table(header, rows or [[_MISSING, *["–"] * 6]])


def memory_table(samples: Samples) -> str:
    """Planned bytes, measured ones, and the least with which a model answers."""
    by_part = group(samples, "part", "model")
    rows = []
    for model in MODELS:
        (memory,), (limit,) = (by_part.get((part, model), [{}]) for part in ("memory", "limit"))
        named = SIZES.get(model, f"{model} shape, random weights")
        rows.append([named, *_memory(memory), _least(limit)])
    header = ["model", "weights", "states", "nodes", "process", "predicted MB", "measured MB", "÷ measured"]
    header += ["peak, predicted", "measured peak", "÷ measured peak", "anonymous", "once more, predicted", "once more"]
    return table([*header, "least limit MB"], rows)


def _memory(sample: Mapping[str, Any]) -> list[str]:
    """Predicted bytes, and resident ones of a process; once more is the bundle alone, opened a second time."""
    if not sample:
        return [_MISSING, *["–"] * 12]
    at = {(one["phase"], one["repeat"]): one for one in sample["phases"]}
    planned, process, end = sample["planned"], sample["process_bytes"], at["decoded", 0]
    predicted, measured = planned["total"] + process, end["rss_bytes"]
    peak = max(one["peak_rss_bytes"] for (_, repeat), one in at.items() if repeat == 0)
    again = at["decoded", 1]["rss_bytes"] - at["before load", 1]["rss_bytes"]
    return [
        *(_megabytes(planned[part]) for part in ("weights", "states", "nodes")),
        *map(_megabytes, (process, predicted, measured)),
        f"{predicted / measured:.3f}",
        *map(_megabytes, (predicted + planned["prompt"], peak)),
        f"{(predicted + planned['prompt']) / peak:.3f}",
        *map(_megabytes, (end["anonymous_bytes"], planned["total"], again)),
    ]


def _least(sample: Mapping[str, Any]) -> str:
    if not sample:
        return _MISSING
    if sample["limit_bytes"] is None:
        return "none found"
    return f"{_megabytes(sample['limit_bytes'])} ({sample['trials'][0]['by']})"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f}"


def repeated_table(samples: Samples) -> str:
    """Profiles, gates and rounds, how often what should happen did, and the load of the machine."""
    by_part = group(samples, "part")
    lines = {"repeats": _repeats, "slowdown": _slowdown, "in_turn": _in_turn, "gate": _gate, "overhead": _overhead}
    rows = []
    for part, line in lines.items():
        found = by_part.get((part,), [])
        for (model,), ones in group(found, "model").items():
            rows += [
                [part, SIZES.get(model, f"{model} shape, random weights"), *cells, _load(ones)] for cells in line(ones)
            ]
        if not found:
            rows.append([part, f"{MODELS[1]} shape, random weights", _MISSING, "–", "–", "–"])
    return table(["part", "model", "of", "came to", "ratios", "load of the machine"], rows)


def _repeats(ones: Samples) -> list[list[str]]:
    """Of each quantity how many pairs differ; one in twenty should."""
    rows = []
    for name in _QUANTITIES:
        ratios = [one["ratios"][name] for one in ones]
        differ = sum(ratio["significant"] for ratio in ratios)
        said = f"{differ} differ at 95 % ({0.05 * len(ones):.1f} expected)"
        rows.append([f"{len(ones)} pairs, {name}", said, _ratios(ratios)])
    return rows


def _slowdown(ones: Samples) -> list[list[str]]:
    """How many slowed profiles were found to be slower."""
    ratios = [one["ratios"][_STEP] for one in ones]
    found = sum(ratio["low"] > 1 for ratio in ratios)
    return [[f"{len(ones)} pairs, one slowed by {ones[0]['slower_by']:.0%}", f"{found} found", _ratios(ratios)]]


def _in_turn(ones: Samples) -> list[list[str]]:
    """How many slowed texts were found to be slower in turn, and how many that were not."""
    rows = []
    for slower in sorted({one["slower_by"] for one in ones}, reverse=True):
        ratios = [one["ratio"] for one in ones if one["slower_by"] == slower]
        found = sum(ratio["low"] > 1 or ratio["high"] < 1 for ratio in ratios)
        what = f"one slowed by {slower:.0%}" if slower else "both alike"
        said = f"{len(ratios)} pairs of bundles in turn, {ones[0]['seconds']:.0f} s each, {what}"
        rows.append([said, f"{found} {'found' if slower else 'differ'}", _ratios(ratios)])
    return rows


def _gate(ones: Samples) -> list[list[str]]:
    """How many gates failed that should not have."""
    count = {outcome: sum(one["outcome"] == outcome for one in ones) for outcome in ("kept", "undecided", "broken")}
    said = ", ".join(f"{number} {outcome}" for outcome, number in count.items())
    return [[f"{len(ones)} gates beside a busy process", said, "–"]]


def _overhead(ones: Samples) -> list[list[str]]:
    """A decoded token with circumstances read, over one without."""
    (one,) = ones
    ratio, rounds = one["ratio"], len(one["step_seconds"]["with"])
    said = f"{ratio['ratio'] - 1:+.2%} (95 %: {ratio['low'] - 1:+.2%} to {ratio['high'] - 1:+.2%})"
    return [[f"{rounds} rounds each", f"{said} time of a token", f"{ratio['ratio']:.3f}"]]


def _ratios(found: Sequence[Mapping[str, Any]]) -> str:
    return spread([one["ratio"] for one in found], 3)


def _load(ones: Samples) -> str:
    ahead = ", ahead of it" if any(one.get("ahead") for one in ones) else ""
    return spread([one["load_average"] for one in ones], 1) + ahead
