"""Every table of figures in the README and in docs/ is what a benchmark makes of its committed samples."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_FIGURES = {"accuracy.md", "benchmarks.md", "pruning_figures.md", "sparsity.md"}  # where no table is written by hand


@pytest.fixture(name="reports")
def _reports(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("report")


def texts() -> dict[str, str]:
    return {page.name: page.read_text(encoding="utf-8") for page in PAGES}


def test_every_marked_table_is_made_of_samples(reports: ModuleType) -> None:
    stale = [name for name, text in texts().items() if reports.with_tables(text) != text]
    assert not stale, f"run: python benchmarks/report.py --write, which changes {', '.join(stale)}"


def test_a_table_that_was_changed_by_hand_is_made_anew(reports: ModuleType) -> None:
    text = texts()["benchmarks.md"]
    changed = text.replace("| edgepress | int4 | 5.03 |", "| edgepress | int4 | 4.03 |")
    assert changed != text
    assert reports.with_tables(changed) == text


def test_every_marker_names_a_table_and_is_closed(reports: ModuleType) -> None:
    named = [name for text in texts().values() for name in re.findall(r"<!-- table: (.+?) -->", text)]
    assert set(named) <= set(reports.TABLES)
    assert set(reports.TABLES) <= set(named), "a table that no page has"
    assert all(len(reports.MARKED.findall(text)) == text.count("<!-- table: ") for text in texts().values())


def test_every_result_has_its_report_and_stands_in_a_page(reports: ModuleType) -> None:
    results = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.jsonl")}
    assert results == {*reports.REPORTS, "cliffs", "arm_cliffs"}
    assert set(reports.REPORTS) == {name for cut in reports.TABLES.values() for name in cut.names}


@pytest.mark.parametrize("name", sorted(OF_FIGURES))
def test_no_table_of_a_page_of_figures_is_written_by_hand(name: str, reports: ModuleType) -> None:
    unmarked = reports.MARKED.sub("", texts()[name])
    measured = [line for line in unmarked.splitlines() if line.startswith("|") and re.search(r"\d\.\d", line)]
    assert not measured


def test_tables_of_small_models_say_how_small(reports: ModuleType) -> None:
    """A model is named with its size wherever a row is about one."""
    for name, cut in reports.TABLES.items():
        header, *rows = reports.tables_in(cut.markdown())[0]
        assert rows, name
        if "model" in header:
            cells = {row[header.index("model")] for row in rows}
            assert all(re.search(r"weights\)|random weights|0\.5b", cell) for cell in cells), name


def test_sizes_are_those_of_the_checkpoints(reports: ModuleType) -> None:
    """Where the samples of pruning have a model's parameters."""
    found = dict(re.findall(r"^\| (\w+) \| original \| ([\d,]+) \|", reports.report("pruning"), re.MULTILINE))
    assert set(found) == set(reports.SIZES) - {"resnet20"}
    for name, parameters in found.items():
        (said,) = re.findall(r"\(([\d.]+) M weights\)", reports.SIZES[name])
        assert float(said) == pytest.approx(int(parameters.replace(",", "")) / 1e6, abs=0.05)


def test_cuts_refuse_columns_and_samples_that_do_not_fit(reports: ModuleType) -> None:
    with pytest.raises(ValueError, match="no column colour"):
        reports.Cut(("memory",), less=("colour",)).markdown()
    with pytest.raises(ValueError, match="other columns"):
        reports.Cut(("memory", "fusion")).markdown()
