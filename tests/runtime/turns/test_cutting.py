"""A conversation that is longer than the context is cut by whole turns, the oldest first, and says so."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_bundles import chat_bundle
from hypothesis import given
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime import Model, Sampling, load
from edgepress.runtime.turns.conversation import Conversation
from edgepress.runtime.turns.cutting import beginning_of, left_out_of

CONTEXT = 160


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_bundle(tmp_path_factory.mktemp("cutting") / "bundle")


@pytest.fixture
def model(bundle: Path) -> Model:
    return load(bundle, threads=1, prepared=False, context=CONTEXT)


def size(messages: Sequence[Any]) -> int:
    return sum(message["content"] for message in messages)


MESSAGE = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant", "tool"]),
    st.integers(0, 60),
)


@given(
    st.lists(st.integers(0, 30).map(lambda size: {"role": "system", "content": size}), max_size=2),
    st.lists(MESSAGE, max_size=12),
    st.integers(0, 60),
    st.integers(0, 12),
    st.one_of(st.none(), st.integers(1, 200)),
)
def test_whole_turns_go_and_no_more_than_must(
    system: list[Any], turns: list[Any], last: int, known: int, longest: int | None
) -> None:
    messages = [*system, {"role": "user", "content": 1}, *turns, {"role": "user", "content": last}]
    out = left_out_of(messages, known, size, 100, longest)
    begin = beginning_of(messages)
    assert begin == len(system)
    rest = messages[begin + out :]
    assert rest[0]["role"] == "user"  # never an answer without its question
    free = 12 if longest is None else min(longest, 50)
    starts = [at for at, one in enumerate(messages[begin:]) if one["role"] == "user"]
    kept = known if known in starts else 0
    if size(messages) - size(messages[begin : begin + kept]) + free <= 100:
        assert out == kept  # what fits is told as before
        return
    assert out >= kept
    tokens = {at: size([*system, *messages[begin + at :]]) for at in starts}
    assert tokens[out] <= min(50, 100 - free) or out == starts[-1]
    assert all(tokens[at] > min(50, 100 - free) for at in starts if kept < at < out)


def test_a_long_conversation_goes_on(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    system = {"role": "system", "content": "Speak as Romeo."}
    talk = Conversation(model, [system], sampling=Sampling(), max_tokens=8)
    reused = []
    with caplog.at_level(logging.WARNING, "edgepress.conversation"):
        for number in range(14):
            said = "".join(talk.say(f"And what is number {number}?"))
            assert said == talk.messages[-1]["content"]
            assert talk.last is not None
            reused.append(talk.last.reused)
    assert len(talk.messages) == 29  # nothing of what was said is gone
    assert talk.left_out > 0
    told = [system, *talk.messages[1 + talk.left_out : -1]]
    assert talk.last is not None
    assert talk.last.prompt == model.chat_encoder.encode(told)
    cuts = [record for record in caplog.records if "too long for the context of 160" in record.getMessage()]
    assert 1 <= len(cuts) <= 4
    beginning = len(model.chat_encoder.encode([system], answer=False))
    assert sum(one > beginning + 10 for one in reused) >= 13 - len(
        cuts
    )  # turns between two cuts go on from what is known


def test_what_is_taken_back_is_told_again(model: Model) -> None:
    talk = Conversation(model, sampling=Sampling(), max_tokens=4)
    for number in range(12):
        "".join(talk.say(f"And what is number {number}?"))
    assert talk.left_out
    while len(talk.messages) > 4:
        assert talk.undo()
    "".join(talk.say("Well?"))
    assert talk.left_out == 0
    talk.messages = [{"role": "user", "content": "Another one."}, {"role": "assistant", "content": "Yes."}]
    "".join(talk.say("Well?"))
    assert talk.left_out == 0


def test_one_question_that_is_too_long_is_an_error_and_leaves_the_rest(model: Model) -> None:
    talk = Conversation(model, sampling=Sampling(), max_tokens=4)
    "".join(talk.say("Who is there?"))
    before = list(talk.messages)
    with pytest.raises(InputError, match="do not fit in the context of 160"):
        "".join(talk.say("word " * 300))
    assert talk.messages == before
    assert talk.left_out == 0
    "".join(talk.say("And now?"))
    assert talk.left_out == 0


def test_chat_says_so_on_the_terminal(bundle: Path) -> None:
    lines = "".join(f"And what is number {number}?\n" for number in range(9))
    command = [sys.executable, "-m", "edgepress", "chat", str(bundle), "--max-tokens", "4", "--temperature", "0"]
    command += ["--system", "Be brief.", "--no-prepare", "--threads", "1", "--context", "120"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "too long for the context of 120 tokens; what the model is told now is the system prompt and" in done.stderr
    assert "do not fit" not in done.stderr
