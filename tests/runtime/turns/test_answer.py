"""An answer of an open model in its parts, kept among the messages as the template writes it again."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import sign
from chat_bundles import chat_bundle
from numpy.typing import NDArray

from edgepress.chat.spans.kinds import ToolCall
from edgepress.errors import InputError
from edgepress.exporter.demo import DEMO_DIRECTORY
from edgepress.runtime import Beams, Constraint, Model, Sampling, load
from edgepress.runtime.generation.after_thoughts import AfterThoughts
from edgepress.runtime.generation.answer import Answer
from edgepress.runtime.generation.constraints import Matcher, token_table
from edgepress.runtime.turns.conversation import Conversation
from edgepress.text.tokenizer import Detokenizer

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
    return model.chat(ASKED, constraint=only(text), sampling=Sampling(), **more)  # type: ignore[arg-type]


def only(text: str) -> Constraint:
    """A form of all that the model writes."""
    return Constraint.lark(f"start: {json.dumps(text)}")


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
    second = model.chat(asked, constraint=only(ANSWER), sampling=Sampling())
    second.text()
    assert [call.id for call in (*first.tool_calls, *second.tool_calls)] == ["call00001", "call00002"]


def test_a_conversation_keeps_thoughts_and_calls(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.chat
    monkeypatch.setattr(model, "chat", lambda *given, **named: plain(*given, **named, constraint=only(ANSWER)))
    talk = Conversation(model, sampling=Sampling())
    assert "".join(talk.say("?")) == "Let me see."
    assert talk.messages[1]["reasoning_content"] == "I wonder."
    assert talk.messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": "é"}}


def test_the_command_line_says_what_is_said(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "answer.lark").write_text(f"start: {json.dumps(ANSWER)}", encoding="utf-8")
    command = [sys.executable, "-m", "edgepress", "run", str(bundle), "--chat", "--prompt", "?"]
    command += ["--grammar", str(tmp_path / "answer.lark")]
    command += ["--no-prepare", "--threads", "1", "--temperature", "0"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "Let me see.\n"
    assert subprocess.run([*command, "--special"], capture_output=True, text=True, check=True).stdout == ANSWER + "\n"


def test_what_is_of_a_form_is_all_said(model: Model) -> None:
    answer = model.chat(ASKED, constraint=Constraint.json_schema({"const": ANSWER}), sampling=Sampling())
    assert json.loads(answer.text()) == ANSWER  # the marks in it are text
    assert not answer.reasoning
    assert not answer.tool_calls


def test_a_form_waits_for_the_end_of_thoughts_that_the_template_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = chat_bundle(tmp_path / "bundle") / "chat_template.jinja"
    began = "{% if add_generation_prompt %}<think>\n{% endif %}"
    path.write_text(path.read_text(encoding="utf-8") + began, encoding="utf-8")
    model = load(sign(path.parent), threads=1, prepared=False)
    constraint = Constraint.json_schema({"const": "a </think> b"})
    cut = model.chat(ASKED, constraint=constraint, sampling=Sampling(), max_tokens=4)
    assert not cut.text()
    assert cut.reasoning  # what the model says is thought, until it ends that
    assert cut.statistics().endswith("ended by max_tokens, before the answer had its form")
    with pytest.raises(InputError, match="with beams, a form cannot wait for the end of the thoughts"):
        model.chat(ASKED, constraint=constraint, beams=Beams(2)).text()
    left = iter(model.tokenizer.encode_plain("So {it} is.</think>"))

    def thinks(form: AfterThoughts, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        token = next(left, None)
        return plain(form, logits) if token is None else np.eye(logits.size, dtype=np.float32)[token]

    plain = AfterThoughts.masked
    monkeypatch.setattr(AfterThoughts, "masked", thinks)
    answer = model.chat(ASKED, constraint=constraint, sampling=Sampling())
    assert (answer.text(), answer.reasoning, answer.stop_reason) == ('"a </think> b"', "So {it} is.", "end")


def test_of_a_token_that_goes_on_behind_the_thoughts_their_end_alone_is_taken(model: Model) -> None:
    told = {1: "so</th", 2: "ink>\n", 3: "ink>x"}

    class Told(Detokenizer):
        def push(self, token: int) -> str:
            return told[token]

    for token, taken in ((2, [2]), (3, [*b"ink>"])):
        table = token_table(DEMO_DIRECTORY / "tokenizer.json", 1024, frozenset({0}))
        matcher = Matcher(table, Constraint.choice(["7", "8"]))
        form = AfterThoughts(matcher, "</think>", Told(model.tokenizer), lambda text: [*text.encode()])
        assert form.take(1) == [1]
        assert form.is_unfinished
        assert form.take(token) == taken
        [*seven] = model.tokenizer.encode_plain("7")
        assert form.take(seven[0]) == seven
        assert form.is_over
