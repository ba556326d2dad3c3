"""A smaller model as drafter: what it proposes is its own greedy text, whatever is taken, and no answer changes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speculated_texts import CHEAP, GREEDY, PROMPT, answer, check_distribution
from tiny_models import VARIANTS, save, save_variant

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Sampling, Speculation, load
from edgepress.runtime.generation.speculation.costs import StepCosts
from edgepress.runtime.generation.speculation.drafters import draft as drafting
from edgepress.runtime.generation.speculation.drafters.draft import Draft
from edgepress.runtime.generation.speculation.speculating import Speculating
from edgepress.runtime.generation.speculation.window import Window
from edgepress.runtime.sessions.session import Mark

VOCABULARY = 5
COSTS = StepCosts({1: 0.25, 2: 0.3, 16: 0.5}, exact=1)


class Smaller:
    """A session whose logits are a table's row for the last two tokens; ``fixed`` ones go back to marks only."""

    def __init__(self, seed: int, context: int, *, fixed: bool) -> None:
        self.context, self.fixed = context, fixed
        self.tokens: list[int] = []
        self.computed: list[int] = []  # tokens of each step
        self.table = np.random.default_rng(seed).normal(scale=2, size=(VOCABULARY,) * 3).astype(np.float32)

    @property
    def position(self) -> int:
        return len(self.tokens)

    @property
    def earliest(self) -> int:
        return self.position if self.fixed else 0

    def reset(self) -> None:
        self.tokens.clear()

    def mark(self) -> Mark:
        return Mark(self.position, ())

    def roll_back(self, position: int, mark: Mark | None = None) -> None:
        assert 0 < position <= self.position
        assert not self.fixed or position == self.position or (mark is not None and mark.position == position)
        del self.tokens[position:]

    def row(self, tokens: Sequence[int]) -> Any:
        before, last = tokens[-2:] if len(tokens) > 1 else (0, tokens[-1])
        return self.table[before, last]

    def append(self, tokens: Sequence[int]) -> Any:
        self.tokens += tokens
        self.computed.append(len(tokens))
        assert len(self.tokens) <= self.context
        return self.row(self.tokens)[None]


def by_hand(session: Smaller, text: list[int], count: int) -> list[int]:
    """Its greedy text, up to and with the first token that it gives less than 0.3."""
    found: list[int] = []
    while len(found) < count:
        row = session.row([*text, *found]).astype(np.float64)
        found.append(int(row.argmax()))
        if 1 / np.exp(row - row.max()).sum() < 0.3:
            break
    return found


@given(
    st.integers(0, 30),
    st.booleans(),
    st.integers(18, 60),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 6), st.booleans()), min_size=1, max_size=25),
    st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=50),
)
@settings(max_examples=200, deadline=None)
def test_it_proposes_its_own_greedy_text_whatever_was_taken(
    seed: int, fixed: bool, context: int, steps: list[tuple[int, int, bool]], prompt: list[int]
) -> None:
    """Steps propose so many tokens, take so many of them, and another one; or begin anew with a part of the text."""
    session = Smaller(seed, context, fixed=fixed)
    drafter = Draft(session, COSTS, 1.0)  # type: ignore[arg-type]  # it stands for a session
    text = list(prompt)
    drafter.begin(text)
    for count, right, anew in steps:
        proposed: list[int] = []
        if count:
            cost, once, before = drafter.cost(count), drafter.once(), len(session.computed)
            proposed = drafter.propose(count, GREEDY)
            assert proposed == by_hand(session, text, count)
            made = session.computed[before:]
            assert len(made) == len(proposed)
            assert made[0] <= 16
            if count == 1:
                assert once == pytest.approx(COSTS.seconds_of(made[0]) - COSTS.seconds_of(min(2, made[0])))
            assert cost == pytest.approx(COSTS.seconds_of(made[0]) + (count - 1) * 0.25)
        if anew:
            text = [*text[: max(2, len(text) - right)], 3]
            drafter.begin(text)
            continue
        for token in [*proposed[:right], (proposed[right] + 1) % VOCABULARY if right < len(proposed) else 0]:
            drafter.take(token)
            text.append(token)


def test_what_was_right_is_not_read_again() -> None:
    session = Smaller(1, 60, fixed=False)
    drafter = Draft(session, COSTS, 1.0)  # type: ignore[arg-type]
    drafter.begin([1, 2, 3])
    session.table[:] *= 100  # always sure
    proposed = drafter.propose(4, GREEDY)
    for token in (*proposed, 0):
        drafter.take(token)
    drafter.propose(1, GREEDY)
    assert session.computed == [3, 1, 1, 1, 2]  # the last that was proposed, and the one after it


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("draft"), {}
    for variant in ("llama", "lfm2", "mistral-window"):
        save(variant, folder / variant)
        for recipe in ("fp32", "int8"):
            found[f"{variant}-{recipe}"] = folder / f"{variant}-{recipe}"
            export(folder / variant, out=found[f"{variant}-{recipe}"], target="x86-cpu", recipe=recipe)
    return found


@pytest.mark.parametrize("variant", ["llama", "lfm2", "mistral-window"])
def test_answers_are_the_plain_ones(variant: str, bundles: dict[str, Path]) -> None:
    """In float32 several tokens a step differ from one by 1e-6, and these answers are nowhere so near a tie."""
    plain, quick, smaller = (
        load(bundles[f"{variant}-{recipe}"], threads=1, prepared=False) for recipe in ("fp32", "fp32", "int8")
    )
    drafter = Draft(smaller.session, StepCosts({1: 1e-3, 16: 1e-3}, exact=1), 1.0)
    for sampling in (Sampling(), Sampling(temperature=0.8, seed=4)):
        wanted = answer(plain, sampling)
        ahead = Speculating(quick, drafter, Window(CHEAP, 16), 15)
        found = answer(ahead, sampling)
        assert found.tokens == wanted.tokens
        assert ahead.tally.right > 0.5 * ahead.tally.proposed  # drawn ones by the same random numbers
        assert ahead.tally.steps < len(wanted.tokens)


def test_drawn_texts_have_the_models_distribution(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Of a real model, with a third of its layers left out for a draft, most of whose proposals are wrong."""
    recipe = tmp_path / "worse.toml"
    recipe.write_text('prune = ["depth"]\n[options.depth]\nlayers = 2\n[weights]\nbits = 8\n')
    export(bundles["llama-fp32"].parent / "llama", out=tmp_path / "worse", target="x86-cpu", recipe=recipe)
    plain, quick, worse = (
        load(path, threads=1, prepared=False)
        for path in (bundles["llama-fp32"], bundles["llama-fp32"], tmp_path / "worse")
    )
    drafter = Draft(worse.session, StepCosts({1: 1e-3, 16: 1e-3}, exact=1), 1.0)
    right = check_distribution(plain, Speculating(quick, drafter, Window(CHEAP, 4), 3), PROMPT, 500)
    assert 0.05 < right < 0.9  # many are wrong, and some right


def test_a_draft_that_is_not_right_costs_what_the_account_has(bundles: dict[str, Path], tmp_path: Path) -> None:
    """By counted steps: a model of other random weights, which seems cheap enough to try."""
    save_variant(VARIANTS["llama"], tmp_path / "other", seed=9)
    export(tmp_path / "other", out=tmp_path / "bundle", target="x86-cpu", recipe="fp32")
    plain, quick, other = (
        load(path, threads=1, prepared=False)
        for path in (bundles["llama-fp32"], bundles["llama-fp32"], tmp_path / "bundle")
    )
    window = Window(CHEAP, 16)
    ahead = Speculating(quick, Draft(other.session, StepCosts({1: 0.05, 16: 0.2}, exact=1), 1.0), window, 15)
    found = answer(ahead, Sampling(), 100)
    assert found.tokens == answer(plain, Sampling(), 100).tokens
    assert ahead.tally.proposed > ahead.tally.right
    steps = len(found.tokens) - 1
    assert steps < window.spent <= 1.015 * steps + 0.5


def test_a_bundle_that_is_named_drafts_for_another(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(bundles["llama-fp32"], threads=1, prepared=False)
    monkeypatch.setattr(drafting, "Draft", lambda session, costs, _: Draft(session, costs, 1e6))  # as good as free
    how = Speculation("draft", exact=False, bundle=bundles["llama-int8"])
    wanted = model.generate(PROMPT, max_tokens=30)
    wanted.text()
    model.__dict__["step_costs"] = CHEAP
    for one in (model, model.with_session(model.session.with_adapter(None))):
        one.__dict__["step_costs"] = CHEAP
        found = one.generate(PROMPT, max_tokens=30, speculate=how)
        found.text()
        assert found.tokens == wanted.tokens
        assert found.tally is not None
        assert found.tally.right
    assert len(model._beside.opened) == 1  # its weights are open once
    ((key, learned),) = model._learned.items()  # both texts learn together, of answers that are not drawn
    assert key == ("draft", bundles["llama-int8"], None)
    assert (learned[False].saved > 0, learned[True].saved) == (True, 0)


def test_what_cannot_draft_is_one_error(bundles: dict[str, Path], tmp_path: Path) -> None:
    model = load(bundles["llama-fp32"], threads=1, prepared=False)
    model.__dict__["step_costs"] = CHEAP
    with pytest.raises(
        InputError, match=r"llama-fp32 has no draft model; export it by a recipe with a \[draft\] table"
    ):
        model.generate(PROMPT, speculate=Speculation("draft", exact=False))
    with pytest.raises(InputError, match="ngram takes no bundle to draft with; name the drafter draft"):
        Speculation("ngram", bundle=tmp_path)
    export("demo", out=tmp_path / "demo", target="x86-cpu", recipe="int4")
    with pytest.raises(
        InputError, match=r"demo has 1024 tokens and .*llama-fp32 320; a draft model needs the same ones"
    ):
        model.generate(PROMPT, speculate=Speculation("draft", exact=False, bundle=tmp_path / "demo"))
