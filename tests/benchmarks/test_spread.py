"""Jobs go to all processes, and a killed run goes on where it stopped: shown on processes that are really killed."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PATIENCE = 60.0  # seconds until something that never comes is called so

PROGRAM = """
import json, sys, time
from dataclasses import dataclass
from pathlib import Path
from spread import run

@dataclass(frozen=True)
class Job:
    key: str
    folder: Path

    def __call__(self):
        with (self.folder / "begun").open("a") as file:
            file.write(self.key + "\\n")
        if self.key == "broken":
            raise ValueError("broken")
        while self.key == "stuck" and not (self.folder / "go").exists():
            time.sleep(0.01)
        return [{"name": self.key}]

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    jobs = [Job(key, folder) for key in sys.argv[2:]]
    found = run(jobs, folder / "partial.jsonl", processes=2, show=lambda sample: None)
    print(json.dumps([sample["name"] for sample in found]))
"""


def start(folder: Path, *keys: str) -> subprocess.Popen[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(program), str(folder), *keys]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def output(process: subprocess.Popen[str]) -> str:
    """All that the process and its workers print: the pipe ends when the last of them has ended."""
    return process.communicate(timeout=PATIENCE)[0]


def answer(process: subprocess.Popen[str]) -> object:
    """What the program prints; after it a pool that is being taken down may print an error of its own (Python 3.11)."""
    return json.loads([line for line in output(process).splitlines() if line.startswith("[")][-1])


def begun(folder: Path) -> Counter[str]:
    return Counter((folder / "begun").read_text(encoding="utf-8").split())


def kept(folder: Path) -> set[str]:
    path = folder / "partial.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
    return {json.loads(line)["key"] for line in lines}


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    keys = ("a", "stuck", "b", "c")
    process = start(tmp_path, *keys)
    deadline = time.monotonic() + PATIENCE
    while kept(tmp_path) != {"a", "b", "c"}:  # the other process does them while one is stuck
        assert process.poll() is None, output(process)
        assert time.monotonic() < deadline, kept(tmp_path)
        time.sleep(0.02)
    process.kill()
    output(process)  # its workers end too, the stuck one as well
    with (tmp_path / "partial.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "stuck", "samp')  # a line that a kill cut short
    (tmp_path / "go").touch()
    again = start(tmp_path, *keys)
    assert answer(again) == list(keys)
    assert begun(tmp_path) == {"a": 1, "b": 1, "c": 1, "stuck": 2}
    assert kept(tmp_path) == set(keys)


def test_a_job_that_fails_ends_the_run_and_what_others_found_is_kept(tmp_path: Path) -> None:
    first = start(tmp_path, "a", "b")
    output(first)
    process = start(tmp_path, "a", "b", "broken")
    assert "ValueError: broken" in output(process)
    assert process.returncode != 0
    assert kept(tmp_path) == {"a", "b"}


@pytest.mark.parametrize("header", ['{"cpu": "another"}', "", "no JSON"])
def test_what_another_host_left_behind_is_measured_again(tmp_path: Path, header: str) -> None:
    line = json.dumps({"key": "a", "samples": [{"name": "of another host"}]})
    (tmp_path / "partial.jsonl").write_text(f"{header}\n{line}\n", encoding="utf-8")
    assert answer(start(tmp_path, "a")) == ["a"]
