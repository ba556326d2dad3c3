"""The command line as a user meets it: what it prints, where, and with which exit code."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgepress.cli import main

VERBS = ("export", "plan", "adapter", "inspect", "blame", "verify", "prepare", "run", "bench", "eval", "emulator")


def edgepress(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "edgepress", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "demo"
    result = edgepress("export", "demo", "--recipe", "int4", "--out", out)
    assert result.returncode == 0, result.stderr
    return out


def test_help_names_every_verb_and_the_exit_codes() -> None:
    text = edgepress("--help").stdout
    for verb in VERBS:
        assert f"    {verb}" in text
        shown = edgepress(verb, "--help")
        assert shown.returncode == 0
        assert not re.search(r"\(default:\s+(None|False|\[\])\)", shown.stdout)
        assert not re.search(r"\(default:[^()]*\)\s+\(default", shown.stdout)
    assert "Exit codes: 0 good, 1 a check failed, 2 wrong usage or input." in text


def test_without_a_verb_it_shows_which_there_are() -> None:
    result = edgepress()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == edgepress("--help").stdout


def test_inspect_writes_shapes_and_opsets_as_people_do(demo: Path) -> None:
    said = edgepress("inspect", demo).stdout
    assert "opsets ai.onnx 21, com.microsoft 1\n" in said
    assert "past_key_values.*.key    float  batch × 2 × past × 32\n" in said


def test_an_export_says_what_it_wrote_and_draws_no_bar_in_a_pipe(demo: Path) -> None:
    result = edgepress("export", "demo", "--recipe", "int4-128", "--out", demo.parent / "fast")
    assert result.returncode == 0
    assert "MB" in result.stdout
    assert "lowest SQNR" in result.stdout
    assert "\r" not in result.stdout + result.stderr


def test_a_plan_reads_no_weight_and_is_json_when_asked(demo: Path) -> None:
    plan = json.loads(edgepress("plan", "demo", "--recipe", "int4", "--json").stdout)
    assert plan["totals"]["data_file_bytes"] == (demo / "model.onnx.data").stat().st_size
    assert "embedding" in edgepress("plan", "demo").stdout


def test_a_sound_bundle_verifies_and_a_flipped_byte_does_not(demo: Path, tmp_path: Path) -> None:
    assert edgepress("verify", demo).returncode == 0
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in demo.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[12345] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    result = edgepress("verify", copy)
    assert result.returncode == 1
    assert "model.onnx.data" in result.stderr


def test_run_streams_text_and_is_the_same_for_the_same_seed(demo: Path) -> None:
    words = ("run", demo, "--prompt", "ROMEO:", "--max-tokens", 30, "--temperature", 0.8, "--seed", 3)
    first, second = edgepress(*words), edgepress(*words)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert len(first.stdout.split()) > 5


def test_bench_and_eval_give_json(demo: Path, tmp_path: Path) -> None:
    words = ("--prompt-lengths", 16, "--decode-tokens", 4, "--repetitions", 2, "--json")
    measured = json.loads(edgepress("bench", demo, *words).stdout)
    assert measured["bundle_hash"] == hashlib.sha256((demo / "manifest.json").read_bytes()).hexdigest()
    text = tmp_path / "text.txt"
    text.write_text("First Citizen: before we proceed any further, hear me speak.\n" * 4, encoding="utf-8")
    scores = json.loads(edgepress("eval", demo, "--text", text, "--json").stdout)
    assert 1 < scores["bits_per_byte"] < 4
    assert scores["kl"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "absent/dir/x", "--out", "out"), "absent/dir/x"),
        (("export", "some-org/some-model", "--out", "out"), "some-org/some-model"),
        (("verify", "absent"), "absent"),
    ],
)
def test_wrong_input_is_two_lines_at_most_without_a_traceback(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    result = edgepress(*words, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") <= 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "demo", "--out", "out", "--recipe", "int5"), "int4"),
        (("export", "demo", "--out", "out", "--target", "arm64"), "arm64-cpu"),
        (("export", "demo", "--out", "/proc/out"), "/proc"),
        (("export", "demo", "--out", "out", "--context", "0"), "context"),
        (("export", "demo", "--out", "out", "--threads", "0"), "threads"),
        (("plan", "absent/dir/x"), "absent/dir/x"),
        (("inspect", "absent.onnx"), "absent.onnx"),
        (("run", "absent", "--prompt", "x"), "absent"),
        (("bench", "absent"), "absent"),
        (("eval", "absent", "--text", "absent.txt"), "absent is not a directory"),
        (("eval", "absent", "--data", "photos"), "absent is not a directory"),
        (("prepare", "absent"), "absent"),
        (("emulator", "run", "absent", "--prompt", "x"), "absent"),
        (("blame", "absent", "--model", "demo", "--text", "absent.txt"), "absent"),
    ],
)
def test_wrong_input_of_every_verb_is_two_lines_at_most(
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") <= 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "value"), [("--data", "photos"), ("--metric", "top1"), ("--samples", "3")])
def test_a_language_model_is_not_scored_by_an_option_of_tasks(
    option: str, value: str, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(demo), "--text", "absent.txt", option, value]) == 2
    assert f"is a language model, so there is nothing for {option}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["plan", "demo"], ["export", "demo", "--out", "out"]], ids=["plan", "export"])
def test_a_language_model_has_no_other_task(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--task", "image-classification"]) == 2
    assert "demo is a language model, for which --task image-classification has no effect" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = edgepress("verify", tmp_path / "absent", "--debug")
    assert "Traceback" in result.stderr


def test_wrong_usage_exits_with_2() -> None:
    assert edgepress().returncode == 2
    assert edgepress("export", "demo").returncode == 2
    assert edgepress("no-such-verb").returncode == 2


def test_a_closed_pipe_is_no_error(demo: Path) -> None:
    command = f"{sys.executable} -m edgepress inspect {demo} | head -n 1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert result.returncode == 0


def test_a_job_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edgepress", "export", "demo", "--recipe", "int4", "--out", str(out), "--check"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not list(tmp_path.iterdir()):
        time.sleep(0.002)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgepress.cli import main
    from edgepress.commands import verify

    def full(_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "model.onnx.data")

    monkeypatch.setattr(verify, "run", full)
    assert main(["verify", "bundle"]) == 2
    said = capsys.readouterr().err
    assert said == "edgepress: model.onnx.data: No space left on device; free some, or choose another output\n"
