"""One token begins a text, whoever writes it: the template, the tokenizer, the user or a file."""

import json
import logging
from pathlib import Path

import pytest
from tiny_models import TEXT, save
from tokenizers import Tokenizer as Library
from tokenizers import processors

from edgepress.exporter import export
from edgepress.exporter.decide.prepare import decide
from edgepress.exporter.streams.text import pack
from edgepress.runtime import evaluate, load
from edgepress.text.tokenizer import Tokenizer, read_tokenizer

BOS, BEGIN = 1, "<s>"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer puts its first token before a text, and whose chat template writes one, too."""
    folder = save("llama", tmp_path_factory.mktemp("doubled") / "checkpoint")
    library = Library.from_file(str(folder / "tokenizer.json"))
    assert library.id_to_token(BOS) == BEGIN
    library.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, BOS)])
    library.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("doubled") / "bundle"
    export(checkpoint, out=out, recipe="fp32", threads=1)
    return out


@pytest.fixture
def tokenizer(bundle: Path) -> Tokenizer:
    return read_tokenizer(bundle)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_prompt_that_has_one_gets_no_second_and_it_is_said_once(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    plain = tokenizer.encode("be")
    assert plain[0] == BOS
    assert said(caplog) == []
    for _ in range(2):
        assert tokenizer.encode(f"{BEGIN}be") == plain
    assert said(caplog) == ["the prompt begins with '<s>', as chat templates write it: none is added"]


def test_two_that_the_user_writes_are_left_and_said(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    assert tokenizer.encode(f"{BEGIN}{BEGIN}be")[:3] == [BOS, BOS, *tokenizer.encode_plain("be")[:1]]
    assert any("begins with '<s>' twice" in line for line in said(caplog))


def test_a_run_generates_the_same_from_both(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(bundle, threads=1, prepared=False)
    texts = [model.generate(prompt, max_tokens=8).text() for prompt in ("be", f"{BEGIN}be")]
    assert texts[0] == texts[1]
    assert len(said(caplog)) == 1
    model.generate([BOS, BOS, 5], max_tokens=1).text()
    assert "begins with token 1, the beginning of a text, twice" in said(caplog)[-1]


def test_a_document_that_has_one_is_scored_as_without(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = [
        evaluate(bundle, [f"{begin}{TEXT[:200]}"], context=32, stride=16, threads=1, prepared=False)
        for begin in ("", BEGIN, BEGIN * 2)
    ]
    assert scores[0] == scores[1] == scores[2]
    assert set(said(caplog)) == {"text begins with '<s>', which is put before each document anyway: only once"}


def test_calibration_text_that_has_one_gives_the_same_tokens(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pack(["be or", "not"], tokenizer, BOS)
    assert pack([f"{BEGIN}be or", "not"], tokenizer, BOS).tolist() == expected.tolist()
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json", "named templates"])
def test_an_export_notes_a_template_that_writes_one_where_the_tokenizer_adds_one(
    where: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if where != "chat_template.jinja":
        (folder / "chat_template.jinja").unlink()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        template = f"{BEGIN}{{{{ messages }}}}"
        config["chat_template"] = template if where[0] == "t" else [{"name": "default", "template": template}]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert any(
        "the chat template writes '<s>' and the tokenizer adds one" in note
        for note in decide(folder, target="arm64-cpu", recipe="int4").notes
    )


def test_a_template_without_one_is_no_matter(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert not any("chat template" in note for note in decide(folder, target="arm64-cpu", recipe="int4").notes)
