"""Tools in environments of their own: their answers, their times, and what they refuse."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
SERVED = f"""
import sys
sys.path.append({str(PEERS)!r})
from serving import serve
print("a tool's library talks")
if sys.argv[2].endswith("broken"):
    raise RuntimeError("no kernel for this")
def answer(feed):
    if feed["x"].shape[0] > 4:
        raise ValueError("at most 4 at once")
    return feed["x"] * 2
serve(answer, int(sys.argv[4]))
"""


@pytest.fixture(name="script")
def _script(tmp_path: Path) -> Path:
    path = tmp_path / "served.py"
    path.write_text(SERVED)
    return path


def test_arrays_go_to_another_process_and_back(import_script: Callable[[str], ModuleType], script: Path) -> None:
    peers = import_script("any_model_peers")
    apart = peers.Apart(sys.executable, script, script.with_name("file"), lambda x: {"x": x}, 1)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert np.array_equal(apart(x), x * 2)
    assert apart.on_the_way > 0
    with pytest.raises(import_script("any_model_subject").RefusedError, match=r"^ValueError: at most 4 at once$"):
        apart(np.zeros((5, 3)))
    apart.close()


def test_a_tool_that_refuses_is_a_row_with_its_reason(
    import_script: Callable[[str], ModuleType], script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, subject, peers = (import_script(name) for name in ("any_model", "any_model_subject", "any_model_peers"))
    monkeypatch.setattr(run, "WORK", tmp_path)

    def apart(file: str, threads: int) -> object:
        return peers.Apart(sys.executable, script, tmp_path / file, lambda x: {"x": x}, threads)

    (tmp_path / "file").write_bytes(b"123")
    fails = [sys.executable, "-c", "raise TypeError('an Int and a Node')"]
    forms = [
        subject.Form("ours", "fp32", [tmp_path / "file"], lambda _: lambda x: x * 2),
        subject.Form("other", "fp32", [tmp_path / "file"], partial(apart, "file")),
        subject.Form("other", "int8", [tmp_path / "broken"], partial(apart, "broken")),
        peers.attempt("third", "fp32", fails, tmp_path / "never", partial(apart, "file")),
    ]

    def score(answer: Callable[[np.ndarray], np.ndarray], reference: np.ndarray | None) -> object:
        found = answer(np.ones((2, 3)))
        return {"same": 1.0 if reference is None else float((found == reference).mean())}, found

    one = subject.Subject("model (1 weight)", lambda _: forms, lambda: {"two": [np.ones((2, 3))]}, score)
    samples = run.measured(one, 3)
    assert [sample.get("refused") for sample in samples] == [
        None,
        None,
        "RuntimeError: no kernel for this",
        "TypeError: an Int and a Node",
    ]
    assert [len(sample["times"][0]["seconds"]) for sample in samples[:2]] == [3, 3]
    assert samples[1]["scores"] == {"same": 1.0}
    lines = run.report(samples).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "int8: RuntimeError: no kernel for this" in lines[4]


def test_an_environment_without_the_packages_says_so(import_script: Callable[[str], ModuleType]) -> None:
    peers = import_script("any_model_peers")
    options = peers.Namespace(optimum=None, olive=None, litert=None, executorch=sys.executable)
    if "executorch" in peers.versions(options)["executorch"]:
        pytest.skip("executorch is here")
    assert "executorch" in peers.versions(options)["executorch"]["missing"]
