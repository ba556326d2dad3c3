"""The examples for app teams: each run by its own tool where that is installed, with a budget that is kept or not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import save

from edgepress.exporter import export

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(save("llama", directory / "checkpoint"), out=directory / "bundle", recipe="int4")
    return directory / "bundle"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the examples, since builds write beside their files."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    return tmp_path / "examples"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which ``edgepress`` is on the PATH, the one that is tested."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "edgepress"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgepress "$@"\n')
    command.chmod(0o755)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(SOURCE)}


def tighten(place: Path) -> None:
    """Make the budget one that nothing keeps."""
    path = place / "budget.toml"
    path.write_text(path.read_text().replace("most = 10", "most = 0.0001"))


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}")
    return found


def test_make(bundle: Path, place: Path, environment: dict[str, str]) -> None:
    command = [tool("make"), "gate", f"BUNDLE={bundle}"]
    done = run(command, place / "make", environment)
    assert done.returncode == 0, done.stderr
    assert (place / "make" / "gate.xml").exists()
    tighten(place)
    assert "is more than 0.0001" in run(command, place / "make", environment).stdout


def test_cmake(bundle: Path, place: Path, environment: dict[str, str]) -> None:
    cmake = tool("cmake")
    configured = run([cmake, "-B", "build", f"-DBUNDLE={bundle}"], place / "cmake", environment)
    assert configured.returncode == 0, configured.stderr
    build = [cmake, "--build", "build", "--target", "app_model"]
    assert run(build, place / "cmake", environment).returncode == 0
    tighten(place)
    failed = run(build, place / "cmake", environment)
    assert failed.returncode != 0
    assert "is more than 0.0001" in failed.stdout


def test_gradle(bundle: Path, place: Path, environment: dict[str, str]) -> None:
    command = [tool("gradle"), "--offline", "--no-daemon", "edgepressGate", f"-Pbundle={bundle}"]
    done = run(command, place / "gradle", environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "gradle" / "build" / "edgepress-gate.xml").exists()
    tighten(place)
    failed = run(command, place / "gradle", environment)
    assert failed.returncode != 0
    assert "is more than 0.0001" in failed.stdout


def test_github_action(bundle: Path, place: Path, environment: dict[str, str], tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    action = yaml.safe_load((place / "github" / "action.yml").read_text())
    [step] = action["runs"]["steps"]
    assert "${{" not in step["run"], "an input in a script is code that a pull request can write"
    assert set(action["inputs"]) == {"bundle", "budget", "baseline"}
    given = {"BUNDLE": str(bundle), "BUDGET": str(place / "budget.toml"), "BASELINE": ""}
    assert set(step["env"]) == set(given)
    summary = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    command = [tool("bash"), "-eo", "pipefail", "-c", step["run"]]
    done = run(command, tmp_path, environment | given | summary)
    assert done.returncode == 0, done.stderr
    assert "passed" in (tmp_path / "summary.md").read_text()
    tighten(place)
    failed = run(command, tmp_path, environment | given | summary)
    assert failed.returncode == 1
    assert "::error title=size%3A bundle_megabytes" in failed.stdout
    workflow = yaml.safe_load((place / "github" / "workflow.yml").read_text())
    used = workflow["jobs"]["gate"]["steps"][-1]
    assert set(used["with"]) <= set(action["inputs"])


def test_gitlab(bundle: Path, place: Path, environment: dict[str, str], tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((place / "gitlab" / ".gitlab-ci.yml").read_text())["model-gate"]
    variables = {"BUNDLE": str(bundle), "BUDGET": str(place / "budget.toml")}
    assert set(job["variables"]) == set(variables)
    done = run([tool("sh"), "-ec", "\n".join(job["script"])], tmp_path, environment | variables)
    assert done.returncode == 0, done.stderr
    for report in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (tmp_path / report).exists()


def test_pytest(bundle: Path, place: Path, environment: dict[str, str]) -> None:
    plugin = ["-p", "edgepress.pytest_plugin"] if not _installed() else []
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", "-q", "-rs", "test_model.py"]
    folder = place / "pytest"
    skipped = run(command, folder, environment)
    assert "pass --edgepress-bundle DIR" in skipped.stdout
    done = run([*command, "--edgepress-bundle", str(bundle)], folder, environment)
    assert "2 passed" in done.stdout, done.stdout
    test = folder / "test_model.py"
    test.write_text(test.read_text().replace("500", "1"))
    failed = run([*command, "--edgepress-bundle", str(bundle)], folder, environment)
    assert "peak_megabytes" in failed.stdout
    assert "is more than 1" in failed.stdout


def _installed() -> bool:
    """Whether pytest finds the plugin by its entry point: an installation of before it was written has none."""
    from importlib.metadata import entry_points

    return any(point.value == "edgepress.pytest_plugin" for point in entry_points(group="pytest11"))
