"""Nothing of ours, and nothing that we load, tells anybody anything or leaves notes for it.

Whole commands run with an empty home and an empty folder for temporary files, in an environment of their own: what is
there afterwards is what was asked for and the prepared form in the cache. Where strace can look on, no connection.
"""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from adapters import factors, lora, write_adapter

from edgepress.exporter import export

SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")

# One process for all verbs: what is loaded, and when, is the same, and torch is loaded once.
VERBS = """
import sys
from edgepress.cli import main

text, lora, file = sys.argv[1:]
for line in (
    "export demo --recipe int4 --out bundle --check --target android-cpu --adapter-slots 4:q_proj",
    "plan demo --recipe int8",
    "inspect bundle",
    "check bundle --target arm64-cpu",
    "verify bundle",
    "prepare bundle",
    f"adapter bundle {lora} --out {file}",
    f"run bundle --prompt ROMEO: --max-tokens 4 --adapter {file}",
    "bench bundle --prompt-lengths 16 --decode-tokens 4 --repetitions 1",
    f"eval bundle --text {text} --context 64 --stride 32 --reference demo",
    f"blame bundle --model demo --text {text} --tokens 64",
):
    assert main(line.split()) == 0, line
"""
PROVIDERS = """
import sys
from edgepress.cli import main
assert main(["check", "bundle", "--target", sys.argv[1]]) in (0, 2)
"""
GENAI = """
import edgepress, onnxruntime_genai
onnxruntime_genai.Model("bundle")
"""
TEXT = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. " * 20
# An internet address in what strace prints of a call, of version 4 or 6.
ADDRESS = re.compile(r"sa_family=AF_INET6?\b.*")


class Place:
    """An empty home, an empty folder for temporary files and an empty working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("home", "temporary", "work"):
            (folder / name).mkdir()
        self.text = folder / "text.txt"
        self.text.write_text(TEXT)

    def run(self, program: str, *words: str, strace: Path | None = None) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "temporary"),
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, "-c", program, *words]
        if strace is not None:
            calls = "connect,sendto,sendmsg,sendmmsg"
            command = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(strace), "-e", f"trace={calls}", *command]
        result = subprocess.run(
            command, cwd=self.folder / "work", env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def left(self, folder: str) -> set[str]:
        found = (path for path in (self.folder / folder).rglob("*") if not path.is_dir())
        return {path.relative_to(self.folder / folder).as_posix() for path in found}

    def foreign(self) -> set[str]:
        """Files that nobody asked for: all but the bundle and edgepress's own cache."""
        home = {f"home/{name}" for name in self.left("home") if not name.startswith(".cache/edgepress/")}
        work = {f"work/{name}" for name in self.left("work") if not name.startswith("bundle/")}
        return home | work | {f"temporary/{name}" for name in self.left("temporary")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(
            ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "true"], capture_output=True, check=False
        ).returncode
        == 0
    )


def test_no_verb_connects_to_anything_or_writes_what_nobody_asked_for(place: Place) -> None:
    trace = place.folder / "trace" if can_trace() else None
    adapter = write_adapter(place.folder / "lora", lora(*factors(256, 256), "model.layers.0.self_attn.q_proj"))
    place.run(VERBS, str(place.text), str(adapter), str(place.folder / "lora.file"), strace=trace)
    assert place.foreign() == set()
    assert "work/bundle/model.onnx" in {f"work/{name}" for name in place.left("work")}
    assert place.left("home"), "the prepared form"
    if trace is not None:
        calls = trace.read_text(encoding="utf-8", errors="replace")
        assert ADDRESS.findall(calls) == []


def test_a_connection_would_be_seen(place: Place) -> None:
    if not can_trace():
        pytest.skip("strace is not there or may not trace")
    trace = place.folder / "trace"
    program = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))"
    place.run(program, strace=trace)
    assert len(ADDRESS.findall(trace.read_text(encoding="utf-8"))) == 1


@pytest.mark.parametrize(
    ("target", "module"), [("qnn-htp", "onnxruntime_qnn"), ("openvino-cpu", "onnxruntime_ep_openvino")]
)
def test_a_provider_in_a_process_of_its_own_tells_nobody_either(place: Place, target: str, module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    export("demo", out=place.folder / "work" / "bundle", recipe="int8-dynamic")
    trace = place.folder / "trace" if can_trace() else None
    place.run(PROVIDERS, target, strace=trace)
    assert place.foreign() == set()
    if trace is not None:
        assert ADDRESS.findall(trace.read_text(encoding="utf-8", errors="replace")) == []


def test_onnxruntime_genai_beside_edgepress_tells_nobody_either(place: Place) -> None:
    if importlib.util.find_spec("onnxruntime_genai") is None:
        pytest.skip("onnxruntime_genai is not installed")
    export("demo", out=place.folder / "work" / "bundle", recipe="int4")
    place.run(GENAI)
    assert place.foreign() == set()


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("", "1"), ("1", "1"), ("0", "0"), ("false", "false")])
def test_telemetry_is_off_unless_the_user_says_otherwise(given: str | None, kept: str) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment |= {} if given is None else dict.fromkeys(SWITCHES, given)
    program = f"import edgepress, os; print(*[os.environ[name] for name in {SWITCHES}])"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [kept, kept]


def imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_benchmarks_load_edgepress_before_onnxruntime() -> None:
    """They are programs of their own, whose imports would be sorted the other way round."""
    scripts = Path(__file__).resolve().parents[1] / "benchmarks"
    checked = 0
    for path in sorted(scripts.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        order = [name.split(".")[0] for node in body for name in imported(node)]
        senders = [order.index(name) for name in order if name.startswith(("onnxruntime", "huggingface_hub"))]
        if senders:
            checked += 1
            assert "edgepress" in order[: min(senders)], path
    assert checked
