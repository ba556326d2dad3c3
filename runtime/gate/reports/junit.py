"""JUnit's XML, which every build server reads: a test case for each rule; an undecided one is skipped."""

from xml.etree import ElementTree

from edgepress.runtime.gate.gating import Gate
from edgepress.runtime.gate.reports import Report
from edgepress.runtime.gate.verdict import Outcome


def _render(gate: Gate) -> str:
    outcomes = [verdict.outcome for verdict in gate.verdicts]
    suite = ElementTree.Element(
        "testsuite",
        name=f"edgepress gate {gate.bundle}",
        tests=str(len(outcomes)),
        failures=str(outcomes.count(Outcome.BROKEN)),
        skipped=str(outcomes.count(Outcome.UNDECIDED)),
        errors="0",
    )
    for verdict in gate.verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname=f"edgepress.{verdict.gauge}", name=verdict.figure)
        if verdict.outcome is Outcome.BROKEN:
            ElementTree.SubElement(case, "failure", message=verdict.because)
        elif verdict.outcome is Outcome.UNDECIDED:
            ElementTree.SubElement(case, "skipped", message=verdict.because)
        else:
            ElementTree.SubElement(case, "system-out").text = verdict.because
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


REPORT = Report("junit", "JUnit's XML", _render)
