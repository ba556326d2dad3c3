"""A table in Markdown, for a summary or a comment."""

from edgepress.runtime.gate.gating import Gate
from edgepress.runtime.gate.reports import Report
from edgepress.runtime.gate.verdict import Outcome

_SIGNS = {Outcome.KEPT: "✅ kept", Outcome.BROKEN: "❌ broken", Outcome.UNDECIDED: "❔ undecided"}


def _render(gate: Gate) -> str:
    lines = [
        f"### edgepress gate: {_cell(gate.bundle)} on {_cell(gate.device)} {'passed' if gate.passed else 'failed'}",
        "",
        "| figure | value | baseline | | why |",
        "|---|---:|---:|---|---|",
    ]
    for verdict in gate.verdicts:
        values = (_value(verdict.value, verdict.unit), _value(verdict.baseline, verdict.unit))
        cells = [f"{verdict.gauge}: {verdict.figure}", *values, _SIGNS[verdict.outcome], _cell(verdict.because)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _value(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


REPORT = Report("markdown", "a table in Markdown", _render)
