"""The beginning of conversations in a file: the same tokens as without, and an error for every file that is another."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import sign
from chat_bundles import chat_bundle
from hybrid_bundle import VOCABULARY, write_hybrid
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime import Model, Sampling, load
from edgepress.runtime.generation.known_text import KnownText
from edgepress.runtime.generation.prefix import Key, read_prefix, write_prefix
from edgepress.runtime.turns.conversation import Conversation

SYSTEM = [
    {"role": "assistant", "content": "You are Romeo, and say little of what you think. " * 3}
]  # the template has no system
KEY = Key("0" * 64, "cpu", None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_bundle(tmp_path_factory.mktemp("prefix") / "bundle")


@pytest.fixture(scope="module")
def file(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "romeo.prefix"
    assert opened(bundle).prefix(path, SYSTEM) > 40
    return path


def opened(bundle: Path, **more: int) -> Model:
    return load(bundle, threads=1, prepared=False, **more)


def said(model: Model, text: str = "Good morrow.") -> tuple[list[int], int]:
    answer = model.chat([*SYSTEM, {"role": "user", "content": text}], sampling=Sampling(), max_tokens=8)
    answer.text()
    return answer.tokens, answer.reused


def test_a_conversation_goes_on_from_a_file_with_the_tokens_that_it_has_without(bundle: Path, file: Path) -> None:
    before = file.read_bytes()
    model = opened(bundle)
    count = model.prefix(file, SYSTEM)
    assert file.read_bytes() == before
    fresh, known = said(opened(bundle))
    assert known == 0
    assert said(model) == (fresh, count)
    model.generate("Something else", max_tokens=3).text()
    assert said(model) == (fresh, count)  # after another text it is mapped again
    assert said(model, "And now?")[1] >= count


def test_what_the_tokenizer_makes_of_the_end_does_not_matter(bundle: Path, file: Path) -> None:
    model = opened(bundle)
    count = model.prefix(file, SYSTEM)
    for text in ("\n\n\nWell", " ", "...", "ü"):
        model.reset()
        tokens, known = said(model, text)
        assert known <= count
        assert tokens == said(opened(bundle), text)[0]


def test_a_file_that_changes_or_goes_while_it_is_used_is_used_no_more(
    bundle: Path, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh, _ = said(opened(bundle))
    for spoil in (os.unlink, lambda path: path.write_bytes(path.read_bytes()), damage):
        copy = Path(shutil.copy(file, tmp_path / "copy.prefix"))
        model = opened(bundle)
        model.prefix(copy, SYSTEM)
        spoil(copy)
        assert said(model) == (fresh, 0)
        assert "is not used any more" in caplog.text
        caplog.clear()


def damage(path: Path) -> None:
    with path.open("r+b") as content:
        content.seek(path.stat().st_size // 2)
        content.write(b"\x3f" * 8)


@settings(max_examples=40)
@given(data=st.data())
def test_a_file_that_was_changed_is_refused(
    bundle: Path, file: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(file.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "longer", "swap"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del content[at:]
    elif how == "longer":
        content += bytes(1 + at % 100)
    else:
        content[:8], content[8:16] = content[8:16], content[:8]
    spoilt = tmp_path_factory.getbasetemp() / "spoilt.prefix"
    spoilt.write_bytes(content)
    with pytest.raises(InputError, match=r"spoilt\.prefix"):
        MODELS.setdefault(bundle, opened(bundle)).prefix(spoilt, SYSTEM)


MODELS: dict[Path, Model] = {}


def test_a_file_of_something_else_is_refused(bundle: Path, file: Path, tmp_path: Path) -> None:
    model = opened(bundle)
    with pytest.raises(InputError, match=r"holds another text: \d+ tokens, and \d+ are asked for"):
        model.prefix(file, [{"role": "assistant", "content": "You are Tybalt."}])
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    (other / "LICENSE").write_text("other", encoding="utf-8")
    with pytest.raises(InputError, match="is of another bundle"):
        opened(sign(other)).prefix(file, SYSTEM)
    with pytest.raises(InputError, match="do not fit in the context"):
        opened(bundle, context=20).prefix(file, SYSTEM)
    (tmp_path / "notes.txt").write_text("x" * 100, encoding="utf-8")
    with pytest.raises(InputError, match=r"is no prefix that edgepress wrote; name another file$"):
        model.prefix(tmp_path / "notes.txt", SYSTEM)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder is no file; name another file$"):
        model.prefix(tmp_path / "folder", SYSTEM)
    with pytest.raises(InputError, match=rf"{os.devnull} is no file; name another file$"):  # which all may write
        model.prefix(os.devnull, SYSTEM)
    shared = Path(shutil.copy(file, tmp_path / "shared.prefix"))
    shared.chmod(0o666)
    with pytest.raises(InputError, match="may be written by others"):
        model.prefix(shared, SYSTEM)


def test_a_graph_or_adapter_of_another_kind_is_another_key(bundle: Path, tmp_path: Path) -> None:
    session = opened(bundle).session
    session.append([1, 2, 3])
    write_prefix(tmp_path / "a.prefix", KEY, [1, 2, 3], session)
    assert read_prefix(tmp_path / "a.prefix", KEY, [1, 2, 3], session).tokens == [1, 2, 3]
    for key, what in ((Key("0" * 64, "qnn-htp", None), "graph"), (Key("0" * 64, "cpu", "1" * 64), "adapter")):
        with pytest.raises(InputError, match=f"of another {what}"):
            read_prefix(tmp_path / "a.prefix", key, [1, 2, 3], session)


def test_a_folder_that_takes_nothing_is_an_error_and_nothing_is_left(bundle: Path, tmp_path: Path) -> None:
    model = opened(bundle)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        model.prefix(tmp_path / "file" / "a.prefix", SYSTEM)
    resource = pytest.importorskip("resource", reason="there are no limits on files here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (full := tmp_path / "full").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # as a disk that is full
    try:
        with pytest.raises(InputError, match="cannot be written"):
            model.prefix(full / "a.prefix", SYSTEM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(full.iterdir())


def test_states_that_cannot_be_taken_back_go_on_from_the_whole_prefix(tmp_path: Path) -> None:
    model = load(write_hybrid(tmp_path / "hybrid"), threads=1, prepared=False)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 30).tolist()
    model.session.append(tokens[:20])
    write_prefix(tmp_path / "a.prefix", KEY, tokens[:20], model.session)
    other = load(tmp_path / "hybrid", threads=1, prepared=False)
    known = KnownText(other.session)
    known.hold(read_prefix(tmp_path / "a.prefix", KEY, tokens[:20], other.session))
    assert known.go_to_common(tokens) == 20
    logits = other.session.append(tokens[20:])[-1]
    np.testing.assert_allclose(logits, model.session.append(tokens[20:])[-1], atol=1e-5)
    assert known.go_to_common([*tokens[:15], 3]) == 0


def test_the_command_line_keeps_the_beginning(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.prefix"
    command = [sys.executable, "-m", "edgepress", "chat", str(bundle), "--prefix", str(path), "--max-tokens", "4"]
    command += ["--temperature", "0", "--no-prepare", "--threads", "1"]
    first = subprocess.run(command, input="Good morrow.\n", capture_output=True, text=True, check=True)
    assert path.is_file()
    assert (
        subprocess.run(command, input="Good morrow.\n", capture_output=True, text=True, check=True).stdout
        == first.stdout
    )
    wrong = subprocess.run([*command, "--resume", str(path)], input="", capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


def test_a_conversation_keeps_its_system_prompt(bundle: Path, tmp_path: Path) -> None:
    model = opened(bundle)
    talk = Conversation(model, [{"role": "system", "content": "Be brief."}], sampling=Sampling(), max_tokens=4)
    count = talk.keep_beginning(tmp_path / "a.prefix")
    "".join(talk.say("Who is there?"))
    assert talk.last is not None
    assert talk.last.reused >= count > 2
