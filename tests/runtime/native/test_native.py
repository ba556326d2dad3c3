"""The native runner: compiled here, for this processor and for arm64, and held to the Python runtime token by token."""

import inspect
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import pytest
from hybrid_bundle import write_hybrid
from lab.native_headers import headers
from tiny_models import save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime.model import load
from edgepress.runtime.profile.records import read_profile
from edgepress.runtime.profile.settings import Settings
from edgepress.targets.emulator import Installation
from edgepress.targets.emulator.machine import arm_environment, arm_python

SOURCE = Path(__file__).resolve().parents[3] / "runtime" / "native"
LIBRARIES = Path(onnxruntime.__file__).parent / "capi"
PROMPT, STEPS = [3, 17, 8, 42, 1, 9, 30], 10


@pytest.fixture(scope="session")
def include(emulator: Installation) -> Path:
    """The headers; whoever can fetch the emulator can fetch these."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    try:
        return headers(emulator.directory) / "usr" / "include"
    except InputError as error:
        if "CI" in os.environ:  # what CI skips, nobody runs
            raise
        pytest.skip(f"Debian's headers cannot be fetched: {error}")


def build(include: Path, folder: Path, compiler: str) -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    options = [
        f"-DONNXRUNTIME_INCLUDE={include}", f"-DJSON_INCLUDE={include}", f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_CXX_FLAGS=-O1",
    ]  # fmt: skip
    for command in (["cmake", "-S", SOURCE, "-B", folder, *options], ["cmake", "--build", folder]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "edgepress-native"


@pytest.fixture(scope="session")
def program(include: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs here."""
    if platform.system() != "Linux":
        pytest.skip("the library's name is Linux's")
    [library] = LIBRARIES.glob("libonnxruntime.so.*")
    made = build(include, tmp_path_factory.mktemp("native"), "c++")
    return [str(made), "--onnxruntime", str(library), "--threads", "1"]


@pytest.fixture(scope="session")
def arm_program(include: Path, emulator: Installation, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs on an emulated Cortex-A76, which computes in float16."""
    [library] = (emulator.wheels / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    made = build(include, tmp_path_factory.mktemp("arm"), "aarch64-linux-gnu-g++")
    qemu = [str(emulator.qemu), "-L", str(emulator.root), "-cpu", "cortex-a76"]
    return [*qemu, str(made), "--onnxruntime", str(library), "--threads", "1"]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Attention alone; beside a convolution with a state of fixed size; a graph that no exporter of ours made."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("llama", "lfm2"):
        export(save(name, folder / f"{name}-checkpoint"), out=folder / name, recipe="int4")
    write_hybrid(folder / "hybrid")
    return {name: folder / name for name in ("llama", "lfm2", "hybrid")}


def run(command: Sequence[str], bundle: Path, *options: str) -> dict[str, object]:
    tokens = ",".join(map(str, PROMPT))
    done = subprocess.run(
        [*command, str(bundle), "--tokens", tokens, "--decode", str(STEPS), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def by_python(bundle: Path, graph: str | None = None) -> list[int]:
    model = load(bundle, prepared=False, graph=graph, threads=1)
    logits, found = model.prefill(PROMPT), []
    for _ in range(STEPS):
        found.append(int(logits.argmax()))
        logits = model.decode(found[-1])
    return found


@pytest.mark.parametrize("name", ["llama", "lfm2", "hybrid"])
@pytest.mark.parametrize("chunk", ["128", "3"])
def test_the_same_tokens_as_the_python_runtime(
    program: list[str], bundles: dict[str, Path], name: str, chunk: str
) -> None:
    found = run(program, bundles[name], "--turns", "2", "--chunk", chunk)
    assert found["tokens"] == by_python(bundles[name])


def test_the_same_tokens_as_the_python_runtime_on_an_emulated_arm_processor(
    arm_program: list[str], emulator: Installation, bundles: dict[str, Path], tmp_path: Path
) -> None:
    """Both graphs of a bundle: other kernels than this machine's, so Python runs there, too."""
    asked = [(str(bundles[name]), graph) for name in ("llama", "lfm2") for graph in ("model.onnx", "model_fp16.onnx")]
    code = f"""
import json
from pathlib import Path
{inspect.getsource(by_python)}
from edgepress.runtime.model import load
PROMPT, STEPS = {PROMPT}, {STEPS}
print(json.dumps([by_python(Path(bundle), graph) for bundle, graph in {asked}]))
"""
    expected = subprocess.run(
        [*arm_python(emulator, "cortex-a76"), "-c", code],
        env=arm_environment(emulator, tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    found = [run(arm_program, Path(bundle), "--graph", graph)["tokens"] for bundle, graph in asked]
    assert found == json.loads(expected.stdout)
    assert run(arm_program, bundles["llama"])["graph"] == "model_fp16.onnx"


def test_what_it_measures(program: list[str], bundles: dict[str, Path]) -> None:
    found = run(program, bundles["llama"], "--turns", "3", "--context", "64")
    assert (found["graph"], found["context"], found["onnxruntime"]) == ("model.onnx", 64, onnxruntime.__version__)
    assert len(found["ttft_seconds"]) == 3  # type: ignore[arg-type] - JSON
    steps = found["step_seconds"]
    assert [len(turn) for turn in steps] == [STEPS] * 3  # type: ignore[attr-defined] - JSON
    assert all(second > 0 for turn in steps for second in turn)  # type: ignore[attr-defined] - JSON
    memory = found["memory"]
    assert list(memory) == ["before load", "decoded", "loaded", "prefilled"]  # type: ignore[call-overload] - JSON
    before, after = memory["before load"], memory["decoded"]  # type: ignore[index] - JSON
    assert before["rss_bytes"] < 10e6  # no interpreter in it
    assert before["rss_bytes"] < after["rss_bytes"] <= after["peak_rss_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "1,99999"], "token 99999 is not in the vocabulary"),
        (["--tokens", "1,x"], "a token is 'x'"),
        (["--tokens", "1", "--context", "100000"], "the model allows at most 128"),
        (["--tokens", "1", "--decode", "500"], "do not fit in the context of 128"),
        (["--tokens", "1", "--graph", "other.onnx"], "has no graph other.onnx"),
        (["--tokens", "1", "--onnxruntime", "/nothing.so"], "give its library by --onnxruntime FILE"),
        (["--tokens", "1", "--loud", "1"], "there is no option --loud"),
        ([], "--tokens are needed"),
    ],
)
def test_bad_input_is_one_clear_error(
    program: list[str], bundles: dict[str, Path], options: list[str], message: str
) -> None:
    done = subprocess.run([*program, str(bundles["llama"]), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_what_is_no_bundle_is_refused(program: list[str], bundles: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bundles["llama"], tmp_path / "broken")
    for text, message in (("{", "is no JSON"), ("{}", "is not a bundle that this program reads")):
        (tmp_path / "broken" / "manifest.json").write_text(text)
        done = subprocess.run(
            [*program, str(tmp_path / "broken"), "--tokens", "1"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert message in done.stderr


def test_a_profile_has_its_figures_beside_python_s(
    program: list[str], bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Speed with intervals, and the memory of a process without an interpreter, which is less than Python's."""
    out = tmp_path / "p.jsonl"
    asked = ["profile", str(bundles["llama"]), "--out", str(out), "--threads", "1", "--prompt-lengths", "3", "7"]
    asked += ["--decode-tokens", "4", "--rounds", "3", "--no-prepare", "--passes", "native", "memory"]
    assert main([*asked, "--native", program[0]]) == 0
    said = capsys.readouterr().out
    assert "native ttft_seconds at 7" in said
    assert "native memory, decoded" in said
    found = read_profile(out)
    assert len(found.samples("native", "decode")) == 3
    [steps] = {len(sample.measured["step_seconds"]) for sample in found.samples("native", "decode")}
    assert steps == 4 * Settings().turns
    [native, *_] = (one for one in found.samples("native", "memory") if one.detail["phase"] == "before load")
    [python, *_] = found.samples("memory", "before load")
    assert 0 < native.measured["rss_bytes"][0] < python.measured["rss_bytes"][0]


def test_what_is_no_native_runner_is_told(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["profile", str(bundles["llama"]), "--threads", "1", "--prompt-lengths", "3", "--decode-tokens", "2"]
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho hello\n")
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF of another machine")
    for number, (words, message) in enumerate(
        [
            (["--passes", "native"], "there is no native runner; build it"),
            (["--native", str(other)], "is no native runner: it prints 'hello"),
            (["--native", str(broken)], "does not run here"),
        ]
    ):
        assert main([*asked, "--out", str(tmp_path / f"{number}.jsonl"), *words]) == 0
        assert message in capsys.readouterr().out
    assert main([*asked, "--out", str(tmp_path / "n.jsonl"), "--native", str(tmp_path / "absent")]) == 2
    assert "absent is not there" in capsys.readouterr().err
