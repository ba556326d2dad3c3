"""Who may import whom: no circles, no folder that uses one above it, and what a device or a table must not need.

Imports inside functions and under ``TYPE_CHECKING`` count. The order of the floors is in ``docs/floors.py``.
"""

import importlib.util
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("floors", ROOT / "docs" / "floors.py")
assert _spec is not None
assert _spec.loader is not None
floors = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(floors)

MOST_ENTRIES = 14  # of a folder of the exporter, beside __init__.py
ONE_FILE_EACH = ("architectures", "families", "heads", "passes", "towers")  # a file each, found by its name
RUNS_A_BUNDLE = {
    "runtime.config": "what a bundle says of itself, to open it",
    "runtime.sessions.cpu": "the model's own text is sampled from a bundle of it",
    "runtime.sessions.session": "the protocol that such a bundle is driven by",
    "runtime.generation.sampling": "how that text is drawn from logits",
    "runtime.sessions.static": "static graphs are calibrated by the loop that will drive them",
    "runtime.loading": "the targets that an encoder-decoder learns on are written by a bundle of it",
    "runtime.sequences.model": "which writes them of what its encoder takes",
    "runtime.measures.evaluate": "a bundle is scored on the text that its pruning held out",
    "runtime.measures.keeping": "a bundle that keeps a part of a text is scored on text beyond it",
    "runtime.generation.speculation.costs": "a draft is shipped by what the steps that would verify it cost",
    "runtime.tasks.kinds": "a graph is opened as a bundle of its task would be, to be scored",
    "runtime.scoring.kinds": "a budget in a metric finds it as `eval` does",
    "runtime.scoring.score": "and measures by it what a choice loses",
}
FOREIGN = {  # top level modules that a part must do without, and the folder of it that may have them
    "runtime": ({"torch", "transformers", "onnx", "onnx_ir", "safetensors"}, None),
    "targets": ({"torch", "transformers", "onnx", "onnx_ir", "safetensors"}, "targets.legality"),
}
IMPORTS = floors.imports()


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def inside_of() -> dict[str, dict[str, set[str]]]:
    """For each package, which of its files and folders imports which other."""
    found: dict[str, dict[str, set[str]]] = {}
    for module, others in IMPORTS.items():
        parts = module.split(".")
        for depth in range(1, len(parts)):
            package, one = ".".join(parts[:depth]), ".".join(parts[: depth + 1])
            used = {".".join(other.split(".")[: depth + 1]) for other in others if other.startswith(f"{package}.")}
            found.setdefault(package, {}).setdefault(one, set()).update(used - {one})
    return found


def test_every_import_is_seen() -> None:
    """What the rest stands on: files behind the links, imports in functions, and those for types alone."""
    files = [path for top in ("exporter", "runtime", "targets") for path in (ROOT / top).rglob("*.py")]
    files += [
        path
        for path in (ROOT / "src" / "edgepress").rglob("*.py")
        if path.relative_to(ROOT / "src" / "edgepress").parts[0] not in ("exporter", "runtime", "targets")
    ]
    assert len(IMPORTS) == len(files) > 200
    assert "edgepress.exporter.bundle.parities.decoder" in IMPORTS["edgepress.exporter.decide.job"]  # inside a function
    assert "edgepress.exporter.learn.pruning.run" in IMPORTS["edgepress.exporter.decide.job"]  # for its type
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "c", "b", "a"]


def test_no_circle_between_files() -> None:
    assert not circles({module: set(others) for module, others in IMPORTS.items()})


@pytest.mark.parametrize("package", sorted(inside_of()))
def test_no_circle_between_the_folders_and_files_of_a_folder(package: str) -> None:
    if package != "edgepress":  # whose own files are below three of its folders, and above: see the floors
        assert not circles(inside_of()[package])


def test_every_floor_is_there() -> None:
    assert {floors.floor_of(module) for module in IMPORTS} == set(floors.FLOORS)


def test_nothing_uses_a_floor_above_it() -> None:
    order = list(floors.FLOORS)
    upward = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if order.index(floors.floor_of(other)) > order.index(floors.floor_of(module))
    ]
    assert not upward


def test_the_exporter_uses_of_the_runtime_what_runs_a_bundle() -> None:
    used = {
        other.removeprefix("edgepress.")
        for module, others in IMPORTS.items()
        if module.startswith("edgepress.exporter")
        for other in others
        if other.startswith("edgepress.runtime")
    }
    assert used == set(RUNS_A_BUNDLE)


@pytest.mark.parametrize("part", FOREIGN)
def test_no_file_needs_what_its_machine_lacks(part: str) -> None:
    graph = grimp.build_graph("edgepress", include_external_packages=True, cache_dir=None)
    foreign, may = FOREIGN[part]
    for module in graph.modules:
        inside = module.startswith(f"edgepress.{part}")
        if inside and not (may is not None and module.startswith(f"edgepress.{may}")):
            used = graph.find_modules_directly_imported_by(module)
            needed = {"onnx" if other.startswith("edgepress.onnx_graph") else other for other in used}
            assert not needed & foreign, module


def test_folders_of_the_exporter_are_small() -> None:
    folders = [path for path in (ROOT / "exporter").rglob("[!_]*") if path.is_dir()]  # its own are the floors
    for folder in (folder for folder in folders if folder.name not in ONE_FILE_EACH):
        entries = [path.name for path in folder.iterdir() if path.name not in ("__init__.py", "__pycache__")]
        assert len(entries) <= MOST_ENTRIES, f"{folder}: {sorted(entries)}"


def test_the_picture_is_up_to_date() -> None:
    """`python docs/floors.py` draws it again."""
    assert floors.PICTURE.read_text(encoding="utf-8") == floors.draw()
