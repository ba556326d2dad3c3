"""Speculation changes no token: steps over several, what is taken back, what a step may cost, and how it is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hybrid_bundle import write_hybrid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from speculated_texts import CHEAP, GREEDY, PROMPT, answer
from tiny_models import save

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Model, Sampling, load
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.generation import Generation
from edgepress.runtime.generation.penalties import Floats
from edgepress.runtime.generation.sampling import candidates
from edgepress.runtime.generation.speculation.costs import StepCosts, measure_steps
from edgepress.runtime.generation.speculation.drafters.ngram import Ngrams
from edgepress.runtime.generation.speculation.kinds import Speculation, drafter_names
from edgepress.runtime.generation.speculation.speculating import Speculating
from edgepress.runtime.generation.speculation.window import Learned, Window
from edgepress.runtime.sessions.session import Mark
from edgepress.text.tokenizer import StopStrings

VOCABULARY, END = 7, 0


# ---- a model in the place of one: its logits are a table's row for the last two tokens -------------------------------


@dataclass
class TableSession:
    """A session that keeps its tokens. Those of a text with a ``fixed`` state cannot be taken back without a mark."""

    fixed: bool
    context: int = 64
    run_seconds: float = 0.0
    tokens: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        return len(self.tokens)

    @property
    def earliest(self) -> int:
        return self.position if self.fixed else 0

    def mark(self) -> Mark:
        return Mark(self.position, ())

    def expect(self, token: int | None) -> None:
        self.expected = token


class Table:
    """An open text of such a session; it stands for :class:`Model`, and refuses what a session refuses."""

    tokenizer: Any = None
    reused = 0

    def __init__(self, seed: int, fixed: bool = False, context: int = 64) -> None:
        self.session: Any = TableSession(fixed, context)
        self.changes, self.eos, self.steps, self.expected = 0, frozenset({END}), list[int](), list[int]()
        self.table = np.random.default_rng(seed).normal(scale=2, size=(VOCABULARY,) * 3).astype(np.float32)

    def row(self, tokens: Sequence[int]) -> Floats:
        before, last = tokens[-2:] if len(tokens) > 1 else (0, tokens[-1])
        return self.table[before, last]

    def chosen_by(self, choosing: Choosing) -> None:
        """It proposes nothing."""

    def begin(self, tokens: Sequence[int], *, reuse: bool) -> Floats:
        assert not reuse
        self.session.tokens.clear()
        return self.append(tokens, -1)[0]

    def append(self, tokens: Sequence[int], first: int) -> Floats:
        held = self.session.tokens
        start, self.changes = len(held), self.changes + 1
        held += tokens
        assert len(held) <= self.session.context
        self.steps.append(len(tokens))
        return np.stack([self.row(held[: start + 1 + at]) for at in range(len(tokens))][first:])

    def prefill(self, tokens: Sequence[int]) -> Floats:
        return self.append(tokens, -1)[0]

    def decode(self, token: int) -> Floats:
        return self.append([token], -1)[0]

    def expect(self, token: int) -> None:
        self.expected.append(token)

    def settle(self) -> None:
        """Nothing to do."""

    def take_back(self, position: int, mark: Mark) -> None:
        session = self.session
        assert 0 < position <= session.position
        assert not session.fixed or position in (mark.position, session.position)
        self.changes += 1
        del session.tokens[position:]


class Guesses:
    """A drafter that knows the plain answer, and now and then says something else."""

    def __init__(self, answer: Sequence[int], wrong: Sequence[int]) -> None:
        self.answer, self.wrong, self.at = answer, set(wrong), 0

    def begin(self, tokens: Sequence[int]) -> None:
        del tokens

    def take(self, token: int) -> None:
        del token
        self.at += 1

    def evidence(self) -> int:
        return 6 if self.at < len(self.answer) else 0

    def cost(self, count: int) -> float:
        del count
        return 0.0

    def once(self) -> float:
        return 0.0

    def propose(self, count: int, choosing: Choosing) -> list[int]:
        del choosing
        said = enumerate(self.answer[self.at : self.at + count], self.at)
        return [(token + 1) % VOCABULARY if at in self.wrong else token for at, token in said]


def tokens_of(model: Any, sampling: Sampling, longest: int | None, stop: Sequence[int] = ()) -> Generation:
    generation = Generation(model, [3, 1, 2], sampling, longest, StopStrings([]), frozenset(stop))
    chosen = list(generation._tokens())  # there is no tokenizer to make text of them
    model.settle()
    assert chosen == generation.tokens[: len(chosen)]
    return generation


@given(
    st.integers(0, 50),
    st.booleans(),
    st.sampled_from([0.0, 0.7, 1.5]),
    st.lists(st.integers(0, 40), max_size=20),
    st.integers(4, 64),
    st.integers(1, 15),
)
@settings(max_examples=150, deadline=None)
def test_no_token_changes_whatever_is_proposed(
    seed: int, fixed: bool, temperature: float, wrong: list[int], context: int, most: int
) -> None:
    sampling = Sampling(temperature=temperature, top_k=5, repetition_penalty=1.1, seed=seed)
    plain = tokens_of(Table(seed, context=context), sampling, 40)
    table = Table(seed, fixed, context)
    drafter = Guesses(plain.tokens, wrong)
    speculating = Speculating(table, drafter, Window(CHEAP, most + 1), most)
    found = tokens_of(speculating, sampling, 40)
    assert found.tokens == plain.tokens
    assert found.stop_reason == plain.stop_reason
    assert not table.expected  # the session may be ahead of the text, where no such token would come next
    text = [*found.prompt, *found.tokens]
    held = table.session.tokens
    assert held == text[: len(held)]  # nothing of what was proposed is left
    assert fixed or len(held) in (len(text), len(text) - 1)
    assert speculating.tally.right <= speculating.tally.proposed
    if not wrong and len(plain.tokens) > 8:
        assert len(table.steps) < len(plain.tokens)


def test_what_is_certain_goes_after_what_was_right() -> None:
    """A form of the answer makes several tokens certain at once, while others that were proposed are still ahead."""
    table = Table(1)
    plain = tokens_of(Table(1), Sampling(temperature=1, seed=2), 12).tokens
    model = Speculating(table, Guesses(plain, [4]), Window(CHEAP, 8), 7)
    model.begin([3, 1, 2], reuse=False)
    for token in plain[:3]:
        model.decode(token)
    np.testing.assert_array_equal(model.prefill([5, 6]), Table(1).row([5, 6]))
    assert table.session.tokens == [3, 1, 2, *plain[:3], 5, 6]
    np.testing.assert_array_equal(model.decode(4), Table(1).row([6, 4]))


def test_drawn_tokens_have_the_models_distribution() -> None:
    """The first two tokens after a prompt, of 3,000 seeds, against the probabilities that settings leave."""
    sampling = Sampling(temperature=1.2, top_k=4)
    table = Table(3)
    expected = np.zeros((VOCABULARY, VOCABULARY))
    for first, chance in zip(*candidates(table.row([1, 2]), sampling), strict=True):
        if first != END:
            for second, share in zip(*candidates(table.row([2, int(first)]), sampling), strict=True):
                expected[first, second] = chance * share
        else:
            expected[first, 0] = chance  # the text ends
    likeliest = [int(np.argmax(table.row(pair))) for pair in pairwise([1, 2, int(np.argmax(table.row([1, 2])))])]
    counts = np.zeros_like(expected)
    for seed in range(3000):
        model = Speculating(table, Guesses([*likeliest, 1, 1], []), Window(CHEAP, 4), 3)
        drawn = tokens_of(model, Sampling(temperature=1.2, top_k=4, seed=seed), 2).tokens
        counts[drawn[0], drawn[1] if len(drawn) > 1 else 0] += 1
    possible = expected > 0
    assert not counts[~possible].any()
    assert chisquare(counts[possible], expected[possible] * 3000).pvalue > 1e-3


# ---- n-grams ---------------------------------------------------------------------------------------------------------


def place_by_hand(text: list[int]) -> int | None:
    """What the latest earlier place with the same three last tokens is followed by; with two where none has."""
    for size in (3, 2):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == text[-size:]:
                return end
    return None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 59), st.integers(1, 9))
def test_ngrams_propose_what_followed_the_latest_like_place(text: list[int], begun: int, count: int) -> None:
    drafter = Ngrams()
    start = min(begun, len(text) - 1) + 1
    drafter.begin(text[:start])
    for token in text[start:]:
        drafter.take(token)
    place = place_by_hand(text)
    assert bool(drafter.evidence()) == (place is not None)
    if place is None:
        assert drafter.propose(count, GREEDY) == []
        return
    wanted = text.copy()
    for at in range(count):
        wanted.append(wanted[place + at])
    assert drafter.propose(count, GREEDY) == wanted[len(text) :]
    alike = next((at for at in range(min(place, 32)) if text[place - 1 - at] != text[-1 - at]), min(place, 32))
    assert drafter.evidence() == alike.bit_length()


# ---- what a step may cost --------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 15)), min_size=1, max_size=300),
    st.sets(st.integers(0, 299), max_size=8),
    st.floats(1.0, 3.0),
    st.floats(0.0, 0.3),
    st.floats(0.0, 0.3),
    st.integers(0, 2),
    st.floats(0.0, 2.0),
)
def test_what_is_lost_is_bounded_whatever_comes(
    steps: list[tuple[int, int]],
    begins: set[int],
    wide: float,
    drafting: float,
    behind: float,
    nothing: int,
    once: float,
) -> None:
    """1.5 % and half a step of all answers together; of one a step, and two that others saved besides."""
    costs, learned, first = StepCosts({1: 1.0, 16: wide}, exact=16), Learned(), once
    window = Window(costs, 16, learned)
    spent = tokens = before_spent = before_tokens = room = 0.0
    for at, (evidence, right) in enumerate(steps):
        if at in begins:
            room = min(max(tokens - spent, 0.0), 2.0)
            before_spent, before_tokens, once = spent, tokens, first
            learned.next_answer()
            window = Window(costs, 16, learned)
        width = window.width(evidence, drafting=lambda count, once=once: behind + once + drafting * count, once=once)
        drafted = behind + once + drafting * width if width else 0.0
        once = 0.0 if width else once
        spent += drafted
        tokens += 1
        if width and right < nothing:  # a drafter that gives up after all
            window.plain(drafted=drafted)
            spent += 1
        elif width:
            window.verified(evidence, width, min(right, width), 1 + width, drafted)
            spent += window.cost(1 + width)
            tokens += min(right, width)
        else:
            window.plain()
            spent += 1
        assert spent <= 1.015 * tokens + 0.5 + 1e-9
        assert spent - before_spent <= 1.015 * (tokens - before_tokens) + 1 + room + 1e-9
        assert window.spent == pytest.approx(spent - before_spent)


def spent_on(learned: Learned, right: float, generator: np.random.Generator, length: int = 64) -> float:
    """Steps of an answer of ``length`` tokens, with a draft of a fifth of the model that reads 16 tokens first."""
    costs = StepCosts({1: 1.0, 2: 1.33, 4: 1.74, 16: 5.34}, exact=16)
    window, tokens, once = Window(costs, 16, learned), 0, 0.8
    learned.next_answer()
    while tokens < length:

        def drafting(count: int, once: float = once) -> float:
            return once + 0.2 * count

        width = window.width(3, drafting=drafting, once=once)
        if not width:
            window.plain()
            tokens += 1
            continue
        said = min(width, int(generator.geometric(1 - right)) - 1)
        window.verified(3, width, said, 1 + width, drafting(width))
        tokens, once = tokens + 1 + said, 0.0
    return window.spent / tokens


def test_short_answers_gain_by_what_those_before_them_have_learned() -> None:
    """64 tokens are too few to learn whether a draft pays that is right nine times of ten: 40 such answers, counted."""
    generator = np.random.default_rng(0)
    alone = np.mean([spent_on(Learned(), 0.9, generator) for _ in range(40)])
    learned = Learned()
    together = [spent_on(learned, 0.9, generator) for _ in range(40)]
    assert alone > 0.96
    assert np.mean(together) < alone - 0.1
    assert np.mean(together[-20:]) < 0.85
    wrong = [spent_on(learned, 0.05, generator) for _ in range(40)]  # what is asked for is of another kind now
    assert max(wrong) <= 1.015 + 3 / 64
    assert np.mean(wrong) <= 1.015 + 3 / (40 * 64)
    again = [spent_on(learned, 0.9, generator) for _ in range(40)]
    assert np.mean(again[-20:]) < 0.85


def test_what_is_drawn_and_what_is_not_learn_apart() -> None:
    table, learned = Table(1), {drawn: Learned() for drawn in (False, True)}
    for temperature in (0.0, 0.9):
        sampling = Sampling(temperature=temperature, seed=3, bias={END: -np.inf})
        plain = tokens_of(Table(1), sampling, 30)
        for wrong in [range(60), range(60)] if temperature else [[], [9]]:
            ahead = Speculating(table, Guesses(plain.tokens, wrong), Window(CHEAP, 8), 7, learned)
            assert tokens_of(ahead, sampling, 30).tokens == plain.tokens
    greedy, drawn = (right / seen for one in (False, True) for right, seen in [learned[one].seen[6]])
    assert greedy > 0.8
    assert drawn < 0.5


def test_proposals_that_nobody_asked_for_are_not_wrong() -> None:
    """An answer that ends in the middle of a step says nothing of what would have come next."""
    learned = {drawn: Learned() for drawn in (False, True)}
    plain = tokens_of(Table(1), Sampling(bias={END: -np.inf}), 40)
    for longest in range(2, 40):
        ahead = Speculating(Table(1), Guesses(plain.tokens, []), Window(CHEAP, 8), 7, learned)
        tokens_of(ahead, Sampling(bias={END: -np.inf}), longest)
        right, seen = learned[False].seen[6]
        assert right == pytest.approx(seen)


class Unsure(Guesses):
    """It stops after two tokens, however many are asked for, and each takes it a fifth of a step."""

    def cost(self, count: int) -> float:
        return 0.2 * count

    def propose(self, count: int, choosing: Choosing) -> list[int]:
        return super().propose(min(count, 2), choosing)


def test_a_drafter_that_stops_is_paid_for_what_it_did() -> None:
    sampling = Sampling(bias={END: -np.inf})
    plain = tokens_of(Table(1), sampling, 40).tokens
    table, window = Table(1), Window(CHEAP, 8)
    ahead = Speculating(table, Unsure(plain, [9, 17]), window, 7)
    assert tokens_of(ahead, sampling, 40).tokens == plain
    steps = table.steps[1:]  # after the prompt
    assert max(steps) == 3
    assert window.spent == pytest.approx(sum(map(CHEAP.of, steps)) + 0.2 * ahead.tally.proposed)


def test_what_is_read_once_is_paid_when_the_account_has_it() -> None:
    """A draft of a tenth of the model's cost is worth it, and has to read a text first that no single step pays for."""
    window, steps = Window(StepCosts({1: 1.0, 2: 1.33, 4: 1.74, 16: 5.34}, exact=16), 16), 0

    def drafting(count: int) -> float:
        return 0.5 + 0.1 * count

    while not window.width(3, drafting=drafting, once=0.5):
        window.plain()
        steps += 1
    assert 20 < steps < 60  # 0.015 of each token
    assert window.width(3, drafting=drafting) == 0


def test_the_window_follows_what_was_right() -> None:
    window = Window(StepCosts({1: 1.0, 2: 1.11, 4: 1.32, 8: 1.87, 16: 2.9}, exact=16), 16)
    for _ in range(12):
        width = window.width(3)
        window.verified(3, width, width, 1 + width) if width else window.plain()
    assert window.width(3) >= 14
    for _ in range(60):
        width = window.width(3)
        window.verified(3, width, 0, 1 + width) if width else window.plain()
    assert window.width(3) == 0
    tried = [bool(window.width(3)) or window.plain() for _ in range(600)]
    assert any(tried)  # it is forgotten with time, and tried again
    assert Window(StepCosts({1: 1.0, 2: 2.0, 16: 16.0}, exact=16), 16).width(6) == 0  # a step that saves nothing


# ---- bundles ---------------------------------------------------------------------------------------------------------


@cache
def bundle(variant: str, folder: Path) -> Path:
    save(variant, folder / variant / "checkpoint")
    export(folder / variant / "checkpoint", out=folder / variant / "bundle", target="x86-cpu", recipe="fp32")
    return folder / variant / "bundle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speculation")


def opened(path: Path) -> Model:
    return load(path, threads=1, prepared=False)


@pytest.mark.parametrize("variant", ["llama", "mistral-window", "lfm2", "qwen3_5_text"])
def test_bundles_give_the_plain_tokens(variant: str, folder: Path) -> None:
    """In float32 several tokens a step differ from one by 1e-6, and these answers are nowhere so near a tie."""
    path = bundle(variant, folder)
    plain, quick = opened(path), opened(path)
    for sampling in (Sampling(), Sampling(temperature=0.8, seed=4)):
        wanted = answer(plain, sampling)
        ahead = Speculating(quick, Guesses(wanted.tokens, [3, 4, 11, 19, 32]), Window(CHEAP, 16), 15)
        found = answer(ahead, sampling)
        assert found.tokens == wanted.tokens
        assert found.stop_reason == wanted.stop_reason
        text = [*found.prompt, *found.tokens]
        assert quick._known.tokens == text[: quick.session.position]
        assert ahead.tally.right > 20
        assert ahead.tally.steps < 25


def test_steps_are_measured_beside_the_text_and_exact_ones_are_those_of_single_steps(folder: Path) -> None:
    model = opened(bundle("llama", folder))
    other = opened(model.config.bundle)
    for one in (model, other):
        one.prefill([5, 6, 7])
    costs = model.step_costs
    assert model.session.position == 3
    np.testing.assert_array_equal(model.decode(9), other.decode(9))
    assert set(costs.seconds) == {1, 2, 3, 4, 8, 16}
    assert costs.of(1) == 1
    assert min(costs.seconds[1], costs.seconds[2]) <= costs.of(2) * costs.seconds[1]
    session = opened(model.config.bundle).session
    session.append([5, 6, 7])
    rows = session.append([9, 10][: min(2, costs.exact)], 0).copy()
    session.roll_back(3)
    np.testing.assert_array_equal(session.append([9])[0], rows[0])


def test_exact_speculation_gives_the_plain_tokens_or_says_that_it_cannot(folder: Path) -> None:
    model, repeating = opened(bundle("llama", folder)), PROMPT * 4
    wanted = model.generate(repeating, max_tokens=20)
    wanted.text()
    found = model.generate(repeating, max_tokens=20, speculate=Speculation())
    found.text()
    assert found.tokens == wanted.tokens
    assert found.tally is not None
    assert bool(found.tally.note) == (model.step_costs.exact == 1)
    assert str(found.tally) in found.statistics()
    freely = model.generate(repeating, max_tokens=20, speculate=Speculation(exact=False))
    freely.text()
    assert "proposed tokens right" in freely.statistics()


def test_a_step_over_several_goes_back_where_states_are_fixed(tmp_path: Path) -> None:
    session = load(write_hybrid(tmp_path / "hybrid"), threads=1, prepared=False).session
    session.append([1, 2, 3, 4])
    mark = session.mark()
    wanted = session.append([5, 6], 0).copy()
    with pytest.raises(InputError, match="cannot be rolled back from 6 tokens to 4, to 6 or more only"):
        session.roll_back(4)
    with pytest.raises(InputError, match="cannot be rolled back from 6 tokens to 5"):
        session.roll_back(5, mark)
    session.roll_back(4, mark)
    np.testing.assert_array_equal(session.append([5, 6], 0), wanted)
    assert measure_steps(session).exact >= 1
    assert session.position == 0


def test_settings_that_make_no_sense_are_one_error() -> None:
    assert "ngram" in drafter_names()
    with pytest.raises(InputError, match=r"there is no drafter 'crystal ball'; there are .*ngram"):
        Speculation(drafter="crystal ball")
    with pytest.raises(InputError, match="most is 16; a step proposes 1 to 15 tokens"):
        Speculation(most=16)
