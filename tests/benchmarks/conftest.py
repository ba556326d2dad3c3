"""Scripts of ``benchmarks/``, imported as they import each other, and forgotten after the test."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(name="import_script")
def _import_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:  # their names, such as "common", could be another test's
        if _is_script(sys.modules[name]):
            del sys.modules[name]


def _is_script(module: ModuleType) -> bool:
    names = vars(module)  # not getattr, which some modules of torch answer whatever it asks for
    places = [names.get("__file__"), *names.get("__path__", ())]
    return any(place is not None and Path(place).is_relative_to(BENCHMARKS) for place in places)
