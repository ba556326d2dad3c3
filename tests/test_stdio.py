"""Whatever the standard streams are, the work is done, and what cannot be said is no traceback."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.terminal import progress, stdio

COMMAND = f"{shlex.quote(sys.executable)} -m edgepress"
BASE = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HF_HUB_OFFLINE": "1"}
# All verbs in one process, as each would run in its own.
VERBS = """
import sys
from edgepress.cli import main

bundle, text = sys.argv[1:]
for line in (
    "plan demo",
    "inspect {bundle}",
    "check {bundle} --target android-nnapi",
    "verify {bundle}",
    "prepare {bundle}",
    "run {bundle} --prompt Füße\\u2192 --max-tokens 60 --temperature 2 --seed 3",
    "bench {bundle} --prompt-lengths 16 --decode-tokens 4 --repetitions 1",
    "eval {bundle} --text {text} --context 64 --stride 32",
    "blame {bundle} --model demo --text {text} --tokens 64",
    "export demo --recipe int8 --out {bundle}-8 --force",
):
    print(main([word.format(bundle=bundle, text=text) for word in line.split()]))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stdio") / "bundle"
    assert shell(f"{COMMAND} export demo --recipe int4 --out {out}").returncode == 0
    return out


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What a shell makes of a line: it can close streams, and join commands."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], env={**BASE, **environment}, capture_output=True, check=False
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_encoding_that_lacks_our_signs_ends_no_verb(encoding: str, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("To be, or not to be: that is the question. " * 20)
    words = [str(bundle), str(tmp_path / "text.txt")]
    environment = {**BASE, "PYTHONIOENCODING": encoding}
    result = subprocess.run([sys.executable, "-c", VERBS, *words], env=environment, capture_output=True, check=False)
    said = result.stdout.decode(encoding)
    assert result.returncode == 0, result.stderr
    assert said.splitlines().count("0") == 10
    assert re.search(r"MB -> bundle \d", said)


def test_signs_that_are_not_ours_are_escaped() -> None:
    stdio.set_up()
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors="edgepress.written_plainly")
    stream.write("café → 日本 😀 \udcff −1")
    stream.flush()
    assert stream.buffer.getvalue() == b"caf\xe9 -> \\u65e5\\u672c \\U0001f600 \\udcff -1"  # type: ignore[attr-defined]
    asked_for = shell(f"{COMMAND} plan demo", PYTHONIOENCODING="ascii:replace")
    assert asked_for.returncode == 0
    assert b"->" not in asked_for.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_ends_no_work_and_nothing_is_written_into_files_in_its_place(
    closed: str, tmp_path: Path
) -> None:
    assert shell(f"{COMMAND} export demo --recipe int4 --out {tmp_path}/b {closed}").returncode == 0
    assert shell(f"{COMMAND} verify {tmp_path}/b").returncode == 0
    assert shell(f"{COMMAND} run {tmp_path}/b --prompt a --max-tokens 2 {closed}").returncode == 0


def test_a_prompt_from_a_closed_standard_input_is_an_error(bundle: Path) -> None:
    result = shell(f"{COMMAND} run {bundle} --prompt - <&-")
    assert result.returncode == 2
    assert result.stderr.startswith(b"edgepress: standard input is closed; ")


@pytest.mark.parametrize("words", ["run {} --prompt a --max-tokens 300", "inspect {}", "--help", "run --help"])
def test_a_reader_that_has_enough_ends_a_verb_without_a_word(words: str, bundle: Path) -> None:
    result = shell(f"{COMMAND} {words.format(bundle)} | head -c 1")
    assert (result.returncode, len(result.stdout)) == (0, 1)
    assert b"roken" not in result.stderr


def test_nobody_who_reads_stderr_is_no_reason_to_stop(tmp_path: Path) -> None:
    result = shell(f"{COMMAND} export demo --recipe int8 --out {tmp_path}/b 2>&1 >/dev/null | true")
    assert result.returncode == 0
    assert shell(f"{COMMAND} verify {tmp_path}/b").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_stdout_is_said_once(bundle: Path) -> None:
    result = shell(f"{COMMAND} run {bundle} --prompt a --max-tokens 2 >/dev/full")
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1
    assert b"No space left on device" in result.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (r"run {} --prompt $'ab\xff'", b"prompt 'ab\\udcff' has the byte 0xff, which is no UTF-8, at character 2"),
        (r"run {} --prompt a --stop $'\xc3'", b"stop '\\udcc3' has the byte 0xc3"),
        (r"verify $'caf\xe9'", b"bundle 'caf\\udce9' has the byte 0xe9"),
        (r"export $'org/caf\xe9' --out b", b"model 'org/caf\\udce9'"),
        (r"plan demo --calibration $'\xff.txt'", b"calibration '\\udcff.txt'"),
        (r"eval {} --text $'\xff'", b"text '\\udcff'"),
        (r"emulator run {} --prompt $'\xff'", b"prompt '\\udcff'"),
    ],
)
def test_arguments_that_are_no_utf8_are_named(words: str, named: bytes, bundle: Path) -> None:
    result = shell(f"{COMMAND} {words.format(bundle)}")
    assert result.returncode == 2
    assert result.stderr.startswith(b"edgepress: " + named)
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (rb"ab\xff", 2, b"standard input is not UTF-8: byte 2 is 0xff"),
        (rb"\xff\xfea\x00", 2, b"standard input is UTF-16"),
        (rb"ab\x00c", 2, b"standard input is not text: byte 2 is 0x00"),
        (rb"\xef\xbb\xbfROMEO:\r\n", 0, b"prompt "),
    ],
)
def test_a_prompt_from_standard_input_is_read_as_a_file_is(given: bytes, code: int, said: bytes, bundle: Path) -> None:
    result = shell(f"printf '{given.decode()}' | {COMMAND} run {bundle} --prompt - --max-tokens 3")
    assert result.returncode == code
    assert said in result.stderr
    if not code:
        plain = shell(f"printf 'ROMEO:\\n' | {COMMAND} run {bundle} --prompt - --max-tokens 3")
        assert result.stdout == plain.stdout


def test_a_locale_that_is_not_utf8_says_how_to_get_one(bundle: Path) -> None:
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = shell(f"{COMMAND} run {bundle} --prompt é --max-tokens 3", **old)
    assert result.returncode == 2
    assert b"set PYTHONUTF8=1" in result.stderr
    assert shell(f"{COMMAND} plan demo", **old).returncode == 0
    assert shell(f"{COMMAND} run {bundle} --prompt é --max-tokens 3", LC_ALL="C").returncode == 0


def test_control_characters_of_a_name_are_escaped(tmp_path: Path) -> None:
    result = shell(rf"cd {tmp_path}; {COMMAND} verify $'a\x1b[31m\rb'")
    assert result.returncode == 2
    assert b"a\\x1b[31m\\x0db is not a directory" in result.stderr


class Terminal(io.StringIO):
    """A terminal; gone, if ``gone``."""

    gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize(("term", "draws"), [("xterm", True), ("dumb", False)])
def test_a_terminal_that_cannot_erase_has_no_bar(term: str, draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", term)
    with progress.progress(2, "working") as advance:
        advance(2)
    assert ("working" in terminal.getvalue()) is draws


def test_a_terminal_that_is_gone_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress(2, "working") as advance:
        terminal.gone = True
        advance(2)
    stdio.say("and this is heard by nobody")
