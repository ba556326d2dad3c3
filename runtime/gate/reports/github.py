"""Workflow commands of GitHub Actions, which become annotations of the run: ``::error title=…::…``."""

from edgepress.runtime.gate.gating import Gate
from edgepress.runtime.gate.reports import Report
from edgepress.runtime.gate.verdict import Outcome

_COMMANDS = {Outcome.BROKEN: "error", Outcome.UNDECIDED: "warning"}


def _render(gate: Gate) -> str:
    return "".join(
        f"::{_COMMANDS[verdict.outcome]} title={_property(f'{verdict.gauge}: {verdict.figure}')}"
        f"::{_data(verdict.because)}\n"
        for verdict in gate.verdicts
        if verdict.outcome in _COMMANDS
    )


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


REPORT = Report("github", "annotations of GitHub Actions", _render)
