"""Calibration text that nothing looks at is said to be so, and is held to what any text is."""

from pathlib import Path

import pytest

from edgepress.cli import main

COMMANDS = (["plan", "demo"], ["export", "demo", "--out"])
GPTQ = "[weights]\nmethod = 'gptq'\nbits = 4\n[calibration]\ntokens = 128\nlength = 64\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_text_that_no_method_looks_at_is_said_to_be_unused(
    command: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*command, str(tmp_path / "out")] if command[0] == "export" else command
    text, recipe = tmp_path / "text.txt", tmp_path / "recipe.toml"
    text.write_text("To be, or not to be, that is the question. " * 100)
    recipe.write_text(GPTQ)
    assert main([*words, "--recipe", "int4", "--calibration", str(text)]) == 0
    said = "calibration text is given and not used: no method of this recipe looks at what the model computes"
    assert caplog.text.count(said) == 1
    caplog.clear()
    force = ["--force"] if command[0] == "export" else []
    assert main([*words, "--recipe", str(recipe), "--calibration", str(text), *force]) == 0
    assert "not used" not in caplog.text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("name", "says"), [("absent.txt", "cannot be read"), ("empty.txt", "is empty"), (".", "is a directory")]
)
def test_text_that_cannot_be_used_is_refused_though_nothing_would_look_at_it(
    command: list[str], name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty.txt").touch()
    words = [*command, str(out)] if command[0] == "export" else command
    assert main([*words, "--recipe", "int4", "--calibration", str(tmp_path / name)]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()
