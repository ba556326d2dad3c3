"""Every figure in a table of the README and of docs/ is what a benchmark makes of its committed samples."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = re.compile(r"benchmarks/(\w+)\.py")
Row = tuple[str, ...]


@pytest.fixture(name="reports")
def _reports(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("report")


def cells(line: str) -> Row:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def documented() -> Iterator[tuple[str, str, Row]]:
    """Yield document, the script that it last named, and a row, of every table that stands after such a name."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    texts = {"README.md": readme[readme.index("\n## Figures\n") : readme.index("\n## Limits\n")]}
    texts |= {f"docs/{path.name}": path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
    for name, text in texts.items():
        script = ""
        for line in text.splitlines():
            if not line.startswith("|"):
                script = next(iter(SCRIPT.findall(line)), script)
            elif script and set(line) - set("|-"):
                yield name, script, cells(line)


def printed(reports: ModuleType) -> dict[str, list[Row]]:
    """Rows of all tables that each script makes; accuracy_tables.py is accuracy.py's."""
    found: dict[str, list[Row]] = {}
    for name, script in reports.REPORTS.items():
        rows = [cells(line) for line in reports.report(name).splitlines() if line.startswith("|")]
        found.setdefault(script.removesuffix("_tables"), []).extend(rows)
    return found


def leaves_out(row: Row, whole: Row) -> bool:
    """Whether ``row`` is ``whole`` without some of its cells."""
    rest = iter(whole)
    return all(cell in rest for cell in row)


@pytest.mark.parametrize(
    ("row", "answer"),
    [(("a", "2"), True), (("a", "1", "2"), True), (("2", "1"), False), (("a", "3"), False)],
)
def test_a_row_may_leave_cells_out_but_not_change_them(row: Row, answer: bool) -> None:
    assert leaves_out(row, ("a", "1", "2")) is answer


def test_every_documented_row_is_made_of_samples(reports: ModuleType) -> None:
    made, seen = printed(reports), set()
    stale = []
    for document, script, row in documented():
        seen.add(script)
        if not any(leaves_out(row, whole) for whole in made[script]):
            stale.append(f"{document}, {script}.py: {' | '.join(row)}")
    assert not stale, "\n".join(stale)
    assert seen == set(made), "a benchmark has samples but no table in the documents"


def test_every_result_has_its_report(reports: ModuleType) -> None:
    results = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.jsonl")}
    assert results == {*reports.REPORTS, "cliffs", "arm_cliffs"}
