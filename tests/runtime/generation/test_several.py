"""Several answers to a prompt: how one is chosen, what the budget allows, and what the model thinks of its tokens."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Model, load
from edgepress.runtime.generation.generation import Generation
from edgepress.runtime.generation.several import budget as budgets
from edgepress.runtime.generation.several.best_of import best_of
from edgepress.runtime.generation.several.budget import Budget
from edgepress.runtime.generation.several.kinds import Candidate, chooser_names, find_chooser
from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.readings import Rail, Reading

PROMPT = [5, 9, 17, 33]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    export(save("qwen3", folder / "qwen3"), out=folder / "bundle", recipe="fp32", target="x86-cpu", threads=1)
    return folder / "bundle"


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1, context=64, prepared=False)


def drawn(model: Model, tokens: int) -> Callable[[int], Generation]:
    return lambda seed: model.generate(PROMPT, temperature=1.0, seed=seed, max_tokens=tokens)


def candidate(text: str, tokens: int = 1, log_probability: float = 0.0) -> Candidate:
    return Candidate(text, tokens, log_probability, ended=True)


@given(st.lists(st.sampled_from(["so it is 4.", "4", "perhaps 5", "none", "it is 4 or 5"]), min_size=1, max_size=9))
def test_the_majority_is_what_most_texts_say_last(said: list[str]) -> None:
    last = {"so it is 4.": "4", "4": "4", "perhaps 5": "5", "it is 4 or 5": "5"}
    votes = Counter(last[text] for text in said if text in last)
    choose = find_chooser("majority", r"\d")
    if not votes:
        with pytest.raises(InputError, match=r"is found in none of the \d texts"):
            choose([candidate(text) for text in said])
        return
    found = choose([candidate(text) for text in said])
    assert found.score == max(votes.values()) == votes[last[said[found.index]]]
    assert all(votes[last[text]] < found.score for text in said[: found.index] if text in last)


def test_other_ways_of_choosing() -> None:
    made = [candidate("aaa", 4, -8.0), candidate("b", 1, -3.0), candidate("cc", 3, -3.0)]
    assert chooser_names() == ["likelihood", "majority"]
    assert find_chooser("likelihood")(made).index == 2  # -1 a token
    assert find_chooser("builtins:len")(made).index == 0
    assert find_chooser("majority", None)([candidate(" x"), candidate("y"), candidate("x ")]).score == 2
    with pytest.raises(InputError, match="builtins:str gave 'aaa' for an answer; it must give a number"):
        find_chooser("builtins:str")(made)
    with pytest.raises(InputError, match=r"builtins:int fails on an answer: ValueError: .*'aaa'; mend it"):
        find_chooser("builtins:int")(made)
    with pytest.raises(InputError, match="there is no way of choosing 'best'; there are likelihood, majority"):
        find_chooser("best")
    with pytest.raises(InputError, match="is no regular expression"):
        find_chooser("majority", "(")
    with pytest.raises(InputError, match="an expression for the answer is for the majority"):
        find_chooser("likelihood", "x")


def test_probabilities_are_those_of_the_logits_of_the_whole_text(model: Model) -> None:
    generation = drawn(model, 12)(3)
    generation.scored = True
    generation.text()
    text = np.array([*PROMPT, *generation.tokens])
    model.reset()
    rows = model.append(text[:-1], len(PROMPT) - 1).astype(np.float64)
    chances = np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)
    wanted = np.log(chances[np.arange(len(rows)), text[len(PROMPT) :]]).sum()
    assert abs(generation.log_probability - wanted) < 1e-3 * abs(wanted)


def test_answers_follow_their_seeds_and_the_prompt_is_computed_once(model: Model) -> None:
    made = best_of(drawn(model, 8), 3, find_chooser("likelihood"), seed=7)
    alone = [drawn(model, 8)(seed).text() for seed in (7, 8, 9)]
    assert [one.text for one in made.candidates] == alone
    assert made.text == alone[made.chosen.index]
    assert made.tokens == sum(one.tokens for one in made.candidates)
    assert (made.stopped_by, made.joules) == (None, 0.0)
    assert model.reused == 0  # of those alone
    best_of(drawn(model, 8), 2, find_chooser("likelihood"))
    assert model.reused == len(PROMPT) - 1  # the last one is computed for its logits


@pytest.mark.parametrize("tokens", [1, 11, 20, 29])
def test_a_budget_of_tokens_holds(model: Model, tokens: int) -> None:
    made = best_of(drawn(model, 10), 9, find_chooser("likelihood"), budget=Budget(tokens=tokens))
    assert made.tokens == tokens
    assert made.stopped_by == f"{tokens} tokens"
    assert all(one.ended or one.tokens == 10 for one in made.candidates[1:])  # none was cut off by the budget
    assert f"ended by the budget of {tokens} tokens" in made.statistics()


def test_a_budget_of_seconds_holds(model: Model) -> None:
    start = perf_counter()
    made = best_of(drawn(model, 50), 10_000, find_chooser("likelihood"), budget=Budget(seconds=0.3))
    assert made.stopped_by == "0.3 seconds"
    assert 0.3 <= made.seconds <= perf_counter() - start


class Steady:
    """A counter of a machine that takes 100 W."""

    rails = (Rail("package", "all", "energy", 1e-6, 1e-3),)

    def __init__(self) -> None:
        self.start = perf_counter()

    def read(self) -> list[Reading]:
        now = perf_counter()
        return [Reading("package", now, 100 * (now - self.start))]

    def trouble(self) -> str | None:
        return None

    def close(self) -> None:
        self.start = float("nan")


def test_a_budget_of_joules_is_kept_by_a_counter(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    source = EnergySource("steady", "everything", Steady)
    monkeypatch.setattr(budgets, "open_meters", lambda _: ([(source, Steady())], {}))

    @contextmanager
    def slower() -> Iterator[None]:
        decode = model.decode
        monkeypatch.setattr(model, "decode", lambda token: (sleep(0.01), decode(token))[1])
        yield
        monkeypatch.undo()

    with slower():
        made = best_of(drawn(model, 40), 100, find_chooser("likelihood"), budget=Budget(joules=60.0))
    assert made.stopped_by == "60 joules"
    assert made.joules >= 60
    assert abs(made.joules - 100 * made.seconds) < 0.2 * made.joules + 5


def test_what_cannot_be_done_is_said(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="at temperature 0 every answer is the same; give a temperature"):
        best_of(lambda seed: model.generate(PROMPT, max_tokens=2, seed=seed), 2, find_chooser("likelihood"))
    with pytest.raises(InputError, match=r"a budget of seconds is -1\.0; it must be a positive number"):
        Budget(seconds=-1.0)
    monkeypatch.setattr(budgets, "open_meters", lambda _: ([], {"rapl": "no such folder"}))
    with pytest.raises(InputError, match=r"there is none here \(rapl: no such folder\)"):
        best_of(drawn(model, 2), 2, find_chooser("likelihood"), budget=Budget(joules=1.0))


def test_from_the_command_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "run",
        str(bundle),
        "--prompt",
        "a b",
        "--max-tokens",
        "4",
        "--best-of",
        "3",
        "--no-prepare",
        "--threads",
        "1",
    ]
    assert main([*line, "--temperature", "1", "--choose", "majority", "--seed", "5"]) == 0
    told = capsys.readouterr()
    assert told.out.strip("\n")
    assert " of 3: " in told.err
    assert " of 3 texts say " in told.err
    assert main(line) == 2
    assert "at temperature 0 every answer is the same" in capsys.readouterr().err
    for option, value in (("choose", "majority"), ("answer", "x"), ("within-tokens", "5"), ("within-seconds", "5")):
        assert main([*line[: line.index("--best-of")], f"--{option}", value]) == 2  # nothing that would be passed over
        assert f"--{option} is for several answers; give --best-of N, too" in capsys.readouterr().err
