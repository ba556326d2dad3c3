"""Calibration text that nothing looks at is said to be so, and is held to what any text is."""

from pathlib import Path

import pytest

from edgepress.cli import main
from edgepress.exporter.streams.text import check_files

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
    said = "calibration text is given and not used: no method of this recipe needs text"
    assert caplog.text.count(said) == 1
    caplog.clear()
    force = ["--force"] if command[0] == "export" else []
    assert main([*words, "--recipe", str(recipe), "--calibration", str(text), *force]) == 0
    assert "not used" not in caplog.text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent.txt", "cannot be read"),
        ("empty.txt", "is empty"),
        (".", "is a directory"),
        ("model.gguf", "is not text: byte 5 is 0x00"),
        ("latin.txt", "is not UTF-8: byte 3 is 0xe9"),
        ("cut.txt", "is not UTF-8: byte 3 is 0xc3"),
    ],
)
def test_text_that_cannot_be_used_is_refused_though_nothing_would_look_at_it(
    command: list[str], name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty.txt").touch()
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9" + b"a" * 20_000)
    (tmp_path / "cut.txt").write_bytes(b"caf\xc3")
    words = [*command, str(out)] if command[0] == "export" else command
    assert main([*words, "--recipe", "int4", "--calibration", str(tmp_path / name)]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_a_character_on_the_edge_of_what_is_looked_at_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a" + "é" * 20_000, encoding="utf-8")  # every even byte begins within one
    check_files([str(tmp_path / "text.txt")])
