"""The tables of arm_instructions.py, from its samples; a model of fewer layers than it has is scaled, and says so."""

from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any

from arm_peers_tables import beside, by_class
from arm_scaling import SPLIT, Samples, named, scaled
from common import group, table

_AROUND = ("between operators", "Python")  # what is no operator (edgepress.runtime.measures.counting)
_FEW = 0.002  # of a call's instructions: operators that take less everywhere share a row
_MILLION = 1e6


def how(of_case: Samples) -> str:
    """Whether a value of a case was counted or scaled."""
    layers = sorted({sample["layers"] for sample in of_case})
    whole = of_case[0]["of_layers"]
    return "counted" if whole in layers else f"scaled from {layers[-2]} and {layers[-1]} of {whole} layers"


def report(samples: Samples) -> str:
    """All tables: per token, by operator, how well layers add up, peers beside us, and by class of operator."""
    return "\n\n".join(part(samples) for part in (per_token, by_operator, linearity, beside, by_class))


def per_token(samples: Samples) -> str:
    """Millions of instructions and megabytes a token, by tool, model, form and processor."""
    contexts = sorted({sample["context"] for sample in samples})
    header = ["model", "processor", "tool", "form"]
    header += [f"decode after {context:,}: M" for context in contexts]
    header += [f"prefill after {context:,}: M a token" for context in contexts]
    header += [f"MB loaded a decoded token after {contexts[-1]:,}", "counts"]
    rows = []
    for (model, cpu, tool, form), of_form in group(samples, "model", "cpu", "tool", "form").items():
        decode, prefill = ([one for one in of_form if (one["tokens"] == 1) == is_one] for is_one in (True, False))
        cells = []
        for of_kind in (decode, prefill):
            cells += [_cell([one for one in of_kind if one["context"] == at], _per_token) for at in contexts]
        last = [one for one in decode if one["context"] == contexts[-1]]
        rows.append([named(model), cpu, tool, form, *cells, _cell(last, _loaded, 1), _how(of_form)])
    return table(header, rows)


def _how(of_form: Samples) -> str:
    """As :func:`how`, by context where that differs."""
    found = {at: how(of_context) for (at,), of_context in group(of_form, "context").items()}
    if len({*found.values()}) == 1:
        return how(of_form)
    return "; ".join(f"after {at:,} {said}" for at, said in found.items())


def _per_token(sample: Mapping[str, Any]) -> float:
    return float(sample["instructions"]) / sample["tokens"]


def _loaded(sample: Mapping[str, Any]) -> float:
    return float(sample["weight_bytes_loaded"] + sample["state_bytes_loaded"])


def _cell(of_case: Samples, value: Callable[[Mapping[str, Any]], float], digits: int = 2) -> str:
    if not of_case or (of_case[0]["weight_bytes_loaded"] is None and value is _loaded):
        return "–"
    return f"{scaled(of_case, value) / _MILLION:.{digits}f}"


def by_operator(samples: Samples) -> str:
    """What a decoded token and one of a prompt take by operator, of one model and form; ours."""
    model, form = SPLIT
    mine = [one for one in samples if (one["model"], one["form"], one["tool"]) == (model, form, "edgepress")]
    columns = group(mine, "cpu", "tokens", "context")
    names = {name for one in mine for name in one["operators"]}
    takes = {name: [scaled(of_case, partial(_taken, {name})) for of_case in columns.values()] for name in names}
    whole = [scaled(of_case, _per_token) for of_case in columns.values()]
    few = {
        name
        for name in names.difference(_AROUND)
        if all(count < _FEW * all_of_it for count, all_of_it in zip(takes[name], whole, strict=True))
    }
    takes[f"{len(few)} others"] = [scaled(of_case, partial(_taken, few)) for of_case in columns.values()]
    order = sorted(names - few - {*_AROUND}, key=lambda name: -sum(takes[name]))
    rows = [*order, *([f"{len(few)} others"] if few else []), *(name for name in _AROUND if name in names)]
    header = [f"operator ({named(model)}, {form}): M a token"]
    header += [f"{cpu}, {'decode' if n == 1 else 'prefill'} after {at:,}" for cpu, n, at in columns]
    return table(header, [[name, *map(_of_whole, takes[name], whole)] for name in rows])


def _taken(names: Set[str], sample: Mapping[str, Any]) -> float:
    """Instructions a token of some operators."""
    return sum(sample["operators"].get(name, 0) for name in names) / float(sample["tokens"])


def _of_whole(count: float, whole: float) -> str:
    return f"{count / _MILLION:.3f} ({count / whole:.1%})"


def linearity(samples: Samples) -> str:
    """How far a count of more layers is from the line through two shallower ones."""
    rows = []
    keys = ("model", "cpu", "tool", "form", "tokens", "context")
    for (model, cpu, tool, form, tokens, context), of_case in group(samples, *keys).items():
        for deep in sorted(of_case, key=lambda one: one["layers"])[2:]:
            line = [one for one in of_case if one["layers"] < deep["layers"]]
            foreseen = scaled([{**one, "of_layers": deep["layers"]} for one in line], lambda one: one["instructions"])
            what = f"{'decode' if tokens == 1 else 'prefill'} after {context:,}"
            figures = (f"{foreseen / _MILLION:.3f}", f"{deep['instructions'] / _MILLION:.3f}")
            off = f"{deep['instructions'] / foreseen - 1:+.2%}"
            rows.append([named(model), cpu, tool, form, what, str(deep["layers"]), *figures, off])
    header = ["model", "processor", "tool", "form", "call", "layers", "foreseen: M", "counted: M", "difference"]
    return table(header, rows)
