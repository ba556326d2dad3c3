"""``run``, ``bench`` and ``eval`` as typed."""

import io
import json
from pathlib import Path

import pytest
from tiny_models import save

from edgepress.cli import main
from edgepress.exporter import export


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(save("llama", directory / "checkpoint"), out=directory / "bundle", recipe="int4")
    return directory / "bundle"


def type_(verb: str, bundle: Path, *words: str | Path) -> int:
    return main([verb, str(bundle), "--threads", "1", "--no-prepare", *map(str, words)])


def test_run_streams_text_to_stdout_and_statistics_to_stderr(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert type_("run", bundle, "--prompt", "To be", "--max-tokens", "8") == 0
    output = capsys.readouterr()
    assert output.out.endswith("\n")
    assert "tokens/s" in output.err
    assert "prompt" not in output.out


def test_run_reads_a_prompt_from_stdin(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_("run", bundle, "--prompt", "To be", "--max-tokens", "8")
    expected = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"To be")))
    type_("run", bundle, "--prompt", "-", "--max-tokens", "8")
    assert capsys.readouterr().out == expected


def test_run_takes_every_sampling_option(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--temperature", "0.9", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.05"]
    words += ["--repetition-penalty", "1.1", "--seed", "4", "--stop", "zz"]
    texts = []
    for _ in range(2):
        assert type_("run", bundle, "--prompt", "To be", "--max-tokens", "12", *words) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_settings_that_have_no_say_are_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--top-k", "3", "--min-p", "0.1"], ["--beams", "2", "--top-k", "3", "--min-p", "0.1"]):
        assert type_("run", bundle, "--prompt", "To be", "--max-tokens", "2", *words) == 0
        assert "whatever --top-k, --min-p says; give --temperature, too" in capsys.readouterr().err
    assert type_("run", bundle, "--prompt", "To be", "--max-tokens", "2", "--temperature", "1", "--top-k", "3") == 0
    assert "whatever" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none", "--prompt", "x"], "edgepress: none is not a directory"),
        (["bench", "none"], "edgepress: none is not a directory"),
        (["eval", "none", "--text", "none.txt"], "edgepress: none is not a directory"),
    ],
)
def test_wrong_input_exits_2_with_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


@pytest.mark.parametrize("json_", [True, False])
def test_bench_prints_averages_or_everything(bundle: Path, json_: bool, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt-lengths", "8", "16", "--decode-tokens", "4", "--repetitions", "2"]
    assert type_("bench", bundle, *words, *(["--json"] if json_ else [])) == 0
    output = capsys.readouterr()
    assert output.err == ""  # no progress bar in a pipe
    if json_:
        content = json.loads(output.out)
        assert [prefill["length"] for prefill in content["prefill"]] == [8, 16]
        assert len(content["decode"]["step_seconds"]) == 2
    else:
        assert "tokens/s" in output.out


@pytest.mark.parametrize("reference", [True, False])
def test_eval_scores_a_file(bundle: Path, tmp_path: Path, reference: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "To be, or not to be"}\n{"text": "that is the question"}\n')
    words = ["--text", text, "--context", "16", "--stride", "8"]
    words += ["--reference", bundle.parent / "checkpoint"] if reference else []
    assert type_("eval", bundle, *words, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["documents"] == 2
    assert (content["kl"] is not None) is reference
    assert type_("eval", bundle, *words) == 0
    assert "bits per byte" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["a", "--on", "cpu", "b"], ["--on", "cpu", "a", "b"], ["a", "b", "--on", "cpu"]])
def test_files_may_stand_before_options_and_behind_them(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("edgepress.commands.run.run", lambda arguments: (asked.append(arguments), 0)[1])
    assert main(["run", "bundle", *words]) == 0
    assert [(str(one.bundle), one.files, one.on) for one in asked] == [("bundle", ["a", "b"], "cpu")]


@pytest.mark.parametrize("words", [["run", "bundle", "--wrong"], ["bench", "bundle", "--json", "more"]])
def test_what_no_verb_takes_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert f"unrecognized arguments: {words[-1]}" in capsys.readouterr().err


def test_language_models_take_nothing_of_other_tasks(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "--prompt", "a", "--times", "words"]) == 2
    assert "is a language model, so there is nothing for --times; leave it out" in capsys.readouterr().err
    assert main(["run", str(bundle), "--prompt", "a", "--json"]) == 2
    assert "is a language model, so there is nothing for --json; leave it out" in capsys.readouterr().err
    assert main(["bench", str(bundle), "--inputs", "none.npz"]) == 2
    assert "is a language model, so there is nothing for --inputs; leave it out" in capsys.readouterr().err
