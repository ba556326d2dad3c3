"""SARIF 2.1.0 (OASIS), which code hosts show beside a change: a result for each rule that is broken or undecided."""

import json

from edgepress import __version__
from edgepress.runtime.gate.gating import Gate
from edgepress.runtime.gate.reports import Report
from edgepress.runtime.gate.verdict import Outcome

_LEVELS = {Outcome.BROKEN: "error", Outcome.UNDECIDED: "note"}


def _render(gate: Gate) -> str:
    rules = [
        {"id": f"{verdict.gauge}/{verdict.figure}", "shortDescription": {"text": f"{verdict.gauge}: {verdict.figure}"}}
        for verdict in gate.verdicts
    ]
    results = [
        {
            "ruleId": f"{verdict.gauge}/{verdict.figure}",
            "level": _LEVELS[verdict.outcome],
            "message": {"text": f"{verdict.figure}: {verdict.because}"},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": gate.bundle}}}],
        }
        for verdict in gate.verdicts
        if verdict.outcome in _LEVELS
    ]
    driver = {"name": "edgepress", "version": __version__, "rules": rules}
    content = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(content, indent=2) + "\n"


REPORT = Report("sarif", "SARIF 2.1.0", _render)
