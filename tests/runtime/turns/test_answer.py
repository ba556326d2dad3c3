"""An answer of an open model in its parts, kept among the messages as the template writes it again."""

import subprocess
import sys
from pathlib import Path

import pytest
from chat_bundles import chat_bundle

from edgepress.chat.spans.kinds import ToolCall
from edgepress.runtime import Constraint, Model, Sampling, load
from edgepress.runtime.generation.answer import Answer
from edgepress.runtime.turns.conversation import Conversation

ANSWER = (
    '<think>\nI wonder.\n</think>\n\nLet me see.\n<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>'
)
ASKED = [{"role": "user", "content": "?"}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_bundle(tmp_path_factory.mktemp("answers") / "bundle")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1, prepared=False)


def saying(model: Model, text: str, **more: object) -> Answer:
    """An answer that can be this one only."""
    return model.chat(ASKED, constraint=Constraint.choice([text]), sampling=Sampling(), **more)  # type: ignore[arg-type]


def test_an_answer_comes_in_its_parts(model: Model) -> None:
    answer = saying(model, ANSWER)
    assert "".join(answer) == answer.content == "Let me see."
    assert answer.reasoning == "I wonder."
    assert answer.tool_calls == [ToolCall("f", {"a": "é"}, "call00001")]
    assert answer.stop_reason == "end"
    message = answer.message()
    template = model.chat_encoder.template
    assert template.render([*ASKED, message], answer=False) == f"[user] ?\n{ANSWER}<|im_end|>"
    again = saying(model, ANSWER)
    assert [piece.field for piece in again.pieces()].count("tool_call") == 1


def test_all_of_it_is_text_when_that_is_asked_for(model: Model) -> None:
    answer = saying(model, ANSWER, special=True)
    assert answer.text() == ANSWER
    assert not answer.tool_calls


def test_what_is_cut_short_is_as_far_as_it_came(model: Model) -> None:
    answer = saying(model, ANSWER, max_tokens=len(model.tokenizer.encode_plain("<think>\nI won")))
    assert not answer.text()
    assert answer.reasoning
    assert "I wonder.".startswith(answer.reasoning)
    assert answer.stop_reason == "max_tokens"


def test_calls_of_a_conversation_have_names_of_their_own(model: Model) -> None:
    asked = [*ASKED, saying(model, ANSWER).message()]
    first = saying(model, ANSWER)
    first.text()
    asked = [*ASKED, first.message(), {"role": "user", "content": "?"}]
    second = model.chat(asked, constraint=Constraint.choice([ANSWER]), sampling=Sampling())
    second.text()
    assert [call.id for call in (*first.tool_calls, *second.tool_calls)] == ["call00001", "call00002"]


def test_a_conversation_keeps_thoughts_and_calls(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.chat
    monkeypatch.setattr(
        model, "chat", lambda *given, **named: plain(*given, **named, constraint=Constraint.choice([ANSWER]))
    )
    talk = Conversation(model, sampling=Sampling())
    assert "".join(talk.say("?")) == "Let me see."
    assert talk.messages[1]["reasoning_content"] == "I wonder."
    assert talk.messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": "é"}}


def test_the_command_line_says_what_is_said(bundle: Path) -> None:
    command = [sys.executable, "-m", "edgepress", "run", str(bundle), "--chat", "--prompt", "?", "--choice", ANSWER]
    command += ["--no-prepare", "--threads", "1", "--temperature", "0"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "Let me see.\n"
    assert subprocess.run([*command, "--special"], capture_output=True, text=True, check=True).stdout == ANSWER + "\n"
