"""``run --prompts``: each line has the answer that it has alone, in its order, and what is wrong with one ends none."""

import json
from collections import Counter
from pathlib import Path

import pytest
from chat_bundles import chat_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.runtime import Generation, Model, load
from edgepress.runtime.turns.side_by_side import Answered, in_order, side_by_side

TEXTS = ["ROMEO:", "What is", "The king of France is", "A horse! A horse!", "My lord,", "Enter GHOST and", "No"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_bundle(tmp_path_factory.mktemp("prompts") / "bundle")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1, prepared=False)


@pytest.fixture(scope="module")
def rows(model: Model) -> list[Model]:
    return side_by_side(model, 3)


@settings(max_examples=15)
@given(asked=st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(0, 7)), max_size=9), count=st.integers(1, 3))
def test_answers_come_in_order_and_are_those_that_each_has_alone(
    model: Model, rows: list[Model], asked: list[tuple[str, int]], count: int
) -> None:
    """``0`` tokens are an error, which ends that answer and no other; none is begun more than ``count`` at once."""
    going: Counter[int] = Counter()

    def ask(one: Model, what: tuple[str, int]) -> Generation:
        going[rows.index(one)] += 1
        return one.generate(what[0], max_tokens=what[1])

    found: list[Answered] = list(in_order(rows[:count], asked, ask))
    assert len(found) == len(asked)
    assert set(going) <= set(range(count))
    for (text, tokens), answered in zip(asked, found, strict=True):
        if tokens == 0:
            assert "max_tokens" in str(answered.error)
        else:
            assert answered.text == model.generate(text, max_tokens=tokens).text()
            assert answered.error is None


def test_one_that_has_ended_makes_room_for_the_next(rows: list[Model]) -> None:
    """A long answer holds nobody up: the short ones go on one after the other beside it."""
    begun: list[tuple[int, int]] = []
    said: list[int] = []

    def ask(one: Model, what: int) -> Generation:
        begun.append((rows.index(one), what))
        return one.generate("ROMEO:", max_tokens=what)

    for answered in in_order(rows[:2], [40, 3, 3, 3, 3], ask):
        assert answered.generation is not None
        said.append(len(answered.generation.tokens))
    assert said == [40, 3, 3, 3, 3]
    assert begun[1:] == [(1, 3)] * 4


def answers(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[list[dict[str, object]], str]:
    assert main(["run", *words, "--no-prepare", "--threads", "1"]) == code
    said = capsys.readouterr()
    return [json.loads(line) for line in said.out.splitlines()], said.err


def test_lines_are_prompts(bundle: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text('﻿ROMEO:\n\nWhat is\r\n{"prompt": "as it is\n', encoding="utf-8")
    found, said = answers([str(bundle), "--prompts", str(file), "--max-tokens", "6"], capsys)
    assert [one["line"] for one in found] == [1, 3, 4]
    assert [one["answer"] for one in found] == [
        model.generate(text, max_tokens=6).text() for text in ("ROMEO:", "What is", '{"prompt": "as it is')
    ]
    assert {one["ended_by"] for one in found} == {"max_tokens"}
    assert "3 prompts, 3 side by side: 18 tokens" in said


def test_a_prompt_without_an_answer_says_why_and_the_rest_is_answered(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "ROMEO:", "id": "a"}, {"prompt": "word " * 99, "id": [2]}, {"prompt": "My lord,"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    words = [str(bundle), "--prompts", str(file), "--max-tokens", "4", "--context", "40", "--at-once", "2"]
    found, said = answers(words, capsys, code=1)
    assert [one.get("id") for one in found] == ["a", [2], None]
    assert "do not fit in the context of 40" in str(found[1]["error"])
    assert "answer" in found[0]
    assert "answer" in found[2]
    assert "1 failed" in said


@pytest.mark.parametrize(
    "extra",
    [["--beams", "2"], ["--speculate", "ngram", "--inexact"], ["--chat", "--system", "Be brief", "--seed", "3"]],
)
def test_other_ways_to_answer(
    bundle: Path, extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("ROMEO:\nWhat is\n")
    found, _ = answers([str(bundle), "--prompts", str(file), "--max-tokens", "4", *extra], capsys)
    for one, prompt in zip(found, ("ROMEO:", "What is"), strict=True):
        assert main(["run", str(bundle), "--prompt", prompt, "--max-tokens", "4", "--no-prepare", *extra]) == 0
        assert capsys.readouterr().out == f"{one['answer']}\n"


@pytest.mark.parametrize(
    ("name", "content", "extra", "message"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": 7}\n', [], "line 2 has the prompt 7"),
        ("a.jsonl", '{"prompt": "x", "temperature": 1}\n', [], "line 1 has 'temperature'"),
        ("a.jsonl", '{"prompt": "x"}\n{"promp\n', [], "line 2"),
        ("a.jsonl", '{"prompt": "\\ud800"}\n', [], "line 1 holds a lone surrogate"),
        ("a.txt", "\n \n", [], "has no prompt"),
        ("a.txt", "x\n", ["--prompt", "y"], "one of them"),
        ("a.txt", "x\n", ["--best-of", "2"], "--best-of is for one prompt"),
        ("a.txt", "x\n", ["--at-once", "0"], "--at-once"),
        ("a.txt", "x\n", ["--at-once", "2", "--beams", "2"], "--at-once"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_before_anything_is_computed(
    bundle: Path,
    name: str,
    content: str,
    extra: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / name
    file.write_text(content)
    assert main(["run", str(bundle), "--prompts", str(file), "--no-prepare", *extra]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert not said.out


def test_at_once_is_for_several(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "--prompt", "x", "--at-once", "2"]) == 2
    assert "--prompts FILE" in capsys.readouterr().err


def test_an_error_of_another_kind_is_raised(rows: list[Model]) -> None:
    def ask(*_: object) -> Generation:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(in_order(rows, [1], ask))
    with pytest.raises(InputError):
        raise next(iter(in_order(rows, [0], lambda one, _: one.generate([])))).error or AssertionError
