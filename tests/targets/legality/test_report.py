"""A report as text: counts, reasons in groups, every node."""

from edgepress.targets.legality.report import Placement, Report, format_report

NPU, CPU = "NpuExecutionProvider", "CPUExecutionProvider"


def report(*placements: Placement, partitions: int = 1) -> Report:
    return Report("m.onnx", "npu", "chip", NPU, "table", "a table", placements, partitions, ("slow",), ("unsure",))


TAKEN = Placement("a", "Conv", "", NPU)
ROUNDED = [Placement(f"e{n}", "Erf", "", CPU, "op", f"Erf {n} is in no table", "use Tanh", "plain") for n in (1, 2)]
LEFT = Placement("r", "Relu", "com.microsoft", CPU, "neighbour", "alone")
NOWHERE = Placement("z", "Zip", "", "", "op", "no kernel", "write it otherwise")


def test_a_whole_model_has_no_reasons() -> None:
    text = format_report(report(TAKEN))
    assert report(TAKEN).full
    assert text.startswith("m.onnx on npu chip, table: a table\n  1 of 1 nodes on NpuExecutionProvider\n")
    assert "why not" not in text


def test_what_is_elsewhere_is_counted_grouped_and_listed() -> None:
    text = format_report(report(TAKEN, *ROUNDED, LEFT, NOWHERE, partitions=2))
    assert "1 of 5 nodes on NpuExecutionProvider in 2 partitions\n  3 on CPUExecutionProvider\n" in text
    assert "1 on no provider: a session cannot be made" in text
    assert (
        "  op: 2 Erf\n    why: for example, Erf 1 is in no table\n    change: use Tanh; the pass plain\n"
        "  neighbour: 1 com.microsoft:Relu\n    why: alone\n    change: none was found\n"
    ) in text
    assert "slow kernels\n  slow\n\nconditions that are not checked\n  unsure\n" in text
    assert text.endswith("  nowhere  Zip  z: no kernel")
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("operator"))
    row = next(line for line in lines if line.startswith("Erf"))
    assert header.split() == ["operator", NPU, "nowhere", CPU]
    assert row.split() == ["Erf", "·", "·", "2"]


def test_json_has_all_and_whether_it_is_full() -> None:
    data = report(TAKEN, LEFT).to_json()
    assert data["full"] is False
    assert data["placements"][1]["cause"] == "neighbour"  # type: ignore[index]
