"""Several conversations over one model's weights: each says what it says alone, in fewer calls where that is exact."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_bundles import chat_bundle
from hybrid_bundle import VOCABULARY, write_hybrid
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime import Constraint, Model, Sampling, load
from edgepress.runtime.sessions.side_by_side import SideBySide
from edgepress.runtime.turns.conversation import Conversation
from edgepress.runtime.turns.side_by_side import in_turn, side_by_side

GREEDY = Sampling()
TEXTS = ["Good morrow.", "Who is there? " * 9, "A horse, a horse, my kingdom for a horse.", "No."]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_bundle(tmp_path_factory.mktemp("together") / "bundle")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1, prepared=False)


def alone(model: Model, text: str, **more: Any) -> list[int]:
    model.reset()
    answer = model.chat([{"role": "user", "content": text}], sampling=GREEDY, **more)
    answer.text()
    return answer.tokens


def calls_from_now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls of onnxruntime."""
    calls: list[int] = []
    run = SideBySide._run
    monkeypatch.setattr(SideBySide, "_run", lambda self, *given: (calls.append(1), run(self, *given))[1])
    return calls


def test_each_says_what_it_says_alone_and_steps_are_shared(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = side_by_side(model, 4)
    assert [row.session.together for row in rows] == [4] * 4  # type: ignore[attr-defined] # the demo's kernels are exact
    calls = calls_from_now(monkeypatch)
    answers = [
        row.chat([{"role": "user", "content": text}], sampling=GREEDY, max_tokens=12 + 3 * number)
        for number, (row, text) in enumerate(zip(rows, TEXTS, strict=True))
    ]
    for _ in in_turn(list(answers)):  # type: ignore[arg-type]
        pass
    for number, (answer, text) in enumerate(zip(answers, TEXTS, strict=True)):
        assert answer.tokens == alone(model, text, max_tokens=12 + 3 * number)
    assert len(calls) < sum(len(answer.tokens) for answer in answers) / 2


@settings(max_examples=20)
@given(order=st.lists(st.integers(0, 2), max_size=40), limits=st.tuples(*[st.integers(1, 9)] * 3))
def test_in_any_order_and_left_at_any_place(model: Model, order: list[int], limits: tuple[int, ...]) -> None:
    rows = ROWS.setdefault(model.config.bundle, side_by_side(model, 3))
    answers: list[Any] = [None] * 3
    for number in order:
        if answers[number] is None or answers[number].stop_reason is not None:
            asked = [{"role": "user", "content": TEXTS[number]}]
            answers[number] = rows[number].chat(asked, sampling=GREEDY, max_tokens=limits[number])
        next(answers[number], None)
    for number, answer in enumerate(answers):
        if answer is not None:
            assert answer.tokens == alone(model, TEXTS[number], max_tokens=limits[number])[: len(answer.tokens)]


ROWS: dict[Path, list[Model]] = {}


def test_conversations_go_on_and_others_join(model: Model) -> None:
    rows = side_by_side(model, 3)
    talks = [Conversation(row, sampling=GREEDY, max_tokens=6) for row in rows]
    answers = [talks[0].say("Good morrow."), talks[1].say("No.")]
    said = {0: "", 1: "", 2: ""}
    for number, piece in in_turn(answers):
        said[number] += piece
        if len(answers) == 2:
            answers.append(talks[2].say("And now?"))
    for talk, text in zip(talks, ("Good morrow.", "No.", "And now?"), strict=True):
        single = Conversation(model.with_adapter(None), sampling=GREEDY, max_tokens=6)
        assert "".join(single.say(text)) == talk.messages[1]["content"] == said[talks.index(talk)]
        assert "".join(single.say("Again?")) == "".join(talk.say("Again?"))
        assert talk.last is not None
        assert talk.last.reused > 0


def test_one_that_is_left_has_one_token_computed_for_it_and_no_more(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = side_by_side(model, 2)
    left = one.chat([{"role": "user", "content": "No."}], sampling=GREEDY)
    next(left)
    calls = calls_from_now(monkeypatch)
    going = other.chat([{"role": "user", "content": "Well?"}], sampling=GREEDY, max_tokens=8)
    going.text()
    assert len(calls) <= 8
    assert isinstance(one.session, SideBySide)
    assert not one.session.is_waiting


def test_a_form_holds_beside_others(model: Model) -> None:
    rows = side_by_side(model, 2)
    asked = [{"role": "user", "content": "?"}]
    answers = [rows[0].chat(asked, constraint=Constraint.regex("[ab]{5}c"), sampling=GREEDY)]
    answers.append(rows[1].chat(asked, sampling=GREEDY, max_tokens=9))
    said = ["", ""]
    for number, piece in in_turn(list(answers)):  # type: ignore[arg-type]
        said[number] += piece
    assert set(said[0][:5]) <= set("ab")
    assert said[0][5:] == "c"
    assert answers[1].tokens == alone(model, "?", max_tokens=9)


def test_each_has_a_limit_of_its_own(model: Model) -> None:
    rows = side_by_side(model, 2, context=24)
    answers = [row.generate([5, 6, 7, number], max_tokens=40) for number, row in enumerate(rows)]
    for _ in in_turn(list(answers)):  # type: ignore[arg-type]
        pass
    assert [answer.stop_reason for answer in answers] == ["context", "context"]
    for number, answer in enumerate(answers):
        whole = model.generate([5, 6, 7, number], max_tokens=40)
        whole.text()
        assert answer.tokens == whole.tokens[: len(answer.tokens)]
    with pytest.raises(InputError, match="count"):
        side_by_side(model, 0)
    with pytest.raises(InputError, match="context"):
        side_by_side(model, 2, context=10**9)


def test_states_that_do_not_grow_take_turns(tmp_path: Path) -> None:
    model = load(write_hybrid(tmp_path / "hybrid"), threads=1, prepared=False)
    rows = side_by_side(model, 2)
    assert [row.session.together for row in rows] == [1, 1]  # type: ignore[attr-defined]
    generator = np.random.default_rng(0)
    texts = [generator.integers(0, VOCABULARY, length).tolist() for length in (12, 5)]
    for step in range(3):
        for row, text in zip(rows, texts, strict=True):
            found = row.prefill(text) if step == 0 else row.decode(step)
            wanted = load(tmp_path / "hybrid", threads=1, prepared=False).prefill([*text, *range(1, step + 1)])
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_kernels_that_are_not_exact_have_texts_take_turns(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = SideBySide.compute_alone
    monkeypatch.setattr(SideBySide, "compute_alone", lambda self, token: exact(self, token) * np.float32(1 + 1e-6))
    assert side_by_side(model, 3)[0].session.together == 1  # type: ignore[attr-defined]
