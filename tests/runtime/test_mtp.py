"""Speculation with a model's own layer for multi-token prediction: what it proposes, and that it changes no token."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import mtp_checkpoints
import numpy as np
import pytest
import tiny_models
import torch
from mtp_checkpoints import Oracle
from speculated_texts import CHEAP, GREEDY, PROMPT, answer, check_distribution

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Model, Sampling, load
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.generation import Generation
from edgepress.runtime.generation.speculation.costs import StepCosts
from edgepress.runtime.generation.speculation.drafters.mtp import FurtherTokens
from edgepress.runtime.generation.speculation.kinds import Opening, Speculation
from edgepress.runtime.generation.speculation.speculating import Speculating
from edgepress.runtime.generation.speculation.window import Window
from edgepress.runtime.turns.side_by_side import side_by_side
from edgepress.text.tokenizer import StopStrings

ITS_OWN = StepCosts({1: 0.01, 16: 0.03}, exact=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mtp")


@cache
def bundle(kind: str, folder: Path) -> Path:
    """A bundle in float32: of a model all of whose states grow, or with recurrent ones."""
    home = folder / kind
    home.mkdir()
    mtp_checkpoints.save(mtp_checkpoints.ATTENDING if kind == "attending" else "qwen3_5_text", home / "checkpoint")
    (home / "recipe.toml").write_text("mtp = true\n[weights]\nbits = 32\n")
    export(home / "checkpoint", out=home / "bundle", target="x86-cpu", recipe=home / "recipe.toml", threads=1)
    return home / "bundle"


@cache
def oracle(kind: str, folder: Path) -> Oracle:
    return Oracle(bundle(kind, folder).parent / "checkpoint")


def opened(path: Path) -> Model:
    return load(path, threads=1, prepared=False)


def opening(model: Model) -> Opening:
    return Opening(
        model.config, model.session, CHEAP, lambda config: (model._beside.open(config, model.session)[0], ITS_OWN)
    )


class Checked(FurtherTokens):
    """What it proposes is held against the oracle; some of it is then made right, so that steps are right in part."""

    def __init__(self, opening: Opening, found: Oracle, answer: Sequence[int], right: Sequence[int]) -> None:
        super().__init__(opening)
        self.oracle, self.answer, self.right, self.times, self.from_ = found, answer, right, 0, 0

    def propose(self, count: int, choosing: Choosing) -> list[int]:
        del choosing  # the oracle's proposals are the likeliest
        found = super().propose(count, GREEDY)
        assert found == self.oracle.proposed(self._text, count, self.from_)
        at = len(self._text) - len(PROMPT)
        right = list(self.answer[at : at + self.right[self.times % len(self.right)]])
        self.times += 1
        return (right + [(token + 1) % 320 for token in found])[:count]  # and then wrong


@pytest.mark.parametrize("kind", ["attending", "recurrent"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=5)], ids=["greedy", "sampled"])
def test_its_proposals_are_the_oracles_whatever_was_right_before_and_no_token_changes(
    kind: str, sampling: Sampling, folder: Path
) -> None:
    """Proposals that turn out right in part leave the layer's states, and the model's own, as if nothing had been."""
    path = bundle(kind, folder)
    wanted = answer(opened(path), sampling, 24)
    model = opened(path)
    drafter = Checked(opening(model), oracle(kind, folder), wanted.tokens, [0, 2, 1, 3, 0, 1])
    ahead = Speculating(model, drafter, Window(CHEAP, 4), 3)
    found = answer(ahead, sampling, 24)
    assert found.tokens == wanted.tokens
    assert drafter.times > 5
    assert 5 < ahead.tally.right < ahead.tally.proposed
    assert ahead.tally.steps < len(found.tokens)


@pytest.mark.parametrize("kind", ["attending", "recurrent"])
def test_a_text_that_goes_on_from_an_earlier_one_is_seen_from_where_it_was_kept(kind: str, folder: Path) -> None:
    """What was computed before the layer was asked for is not seen; nor is what the model goes back to by a copy."""
    path, found = bundle(kind, folder), oracle(kind, folder)
    model, plain = opened(path), opened(path)
    text = [*PROMPT, 50, 60, 70, 80]
    for one in (model, plain):
        one.begin(PROMPT, reuse=True)
    drafter = FurtherTokens(opening(model))
    ahead = Speculating(model, drafter, Window(CHEAP, 4), 3)
    for prompt, start in ((text, len(PROMPT)), ([*PROMPT, 99, 98, 97], len(PROMPT)), ([77, 78, 79], 0)):
        logits = ahead.begin(prompt, reuse=True)
        np.testing.assert_array_equal(logits, plain.begin(prompt, reuse=True))
        drafter.take(20)
        assert drafter.evidence()
        assert drafter.cost(2) > drafter.cost(1) > 0
        assert drafter.propose(3, GREEDY) == found.proposed([*prompt, 20], 3, start)
    drafter.begin([1])  # a text of which the model knows nothing
    model.session.restore(plain.session.snapshot())
    drafter.begin([77, 78, 79])
    drafter.take(20)
    assert not drafter.evidence()  # it was computed elsewhere


def test_it_begins_with_the_last_tokens_of_a_long_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.runtime.generation.speculation.drafters.mtp._SEEN", 8)
    model, found = opened(bundle("recurrent", folder)), oracle("recurrent", folder)
    drafter = FurtherTokens(opening(model))
    text = np.random.default_rng(1).integers(3, 320, 40).tolist()
    model.prefill(text)
    drafter.begin(text)
    drafter.take(9)
    assert drafter.propose(2, GREEDY) == found.proposed([*text, 9], 2, len(text) - 8)
    for token in [9, 3, 4]:  # and goes on where it was
        model.decode(token)
        drafter.take(token)
    drafter._text[-4:] = [9, 3, 4, 5]
    assert drafter.propose(2, GREEDY) == found.proposed([*text, 9, 3, 4, 5], 2, len(text) - 8)


def test_bundles_speculate_with_it_and_others_say_that_they_have_none(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle("attending", folder)
    model = opened(path)
    plain = model.generate(PROMPT, max_tokens=20)
    plain.text()
    for exact in (True, False):
        found = model.generate(PROMPT, max_tokens=20, speculate=Speculation("mtp", exact=exact))
        found.text()
        assert found.tokens == plain.tokens
        assert found.tally is not None
    side = side_by_side(opened(path), 2)[0]
    with pytest.raises(InputError, match=r"gives no hidden states .* one text at a time, or speculate otherwise"):
        side.generate(PROMPT, speculate=Speculation("mtp")).text()
    tiny_models.save("llama", tmp_path / "llama")
    export(tmp_path / "llama", out=tmp_path / "bundle", target="x86-cpu", recipe="fp32", threads=1)
    assert main(["run", str(tmp_path / "bundle"), "--prompt", "to be", "--speculate", "mtp"]) == 2
    said = capsys.readouterr().err
    assert "has nothing that predicts a token further, so mtp cannot speculate" in said
    assert "a recipe with mtp = true, or take ngram" in said


@pytest.mark.parametrize("kind", ["attending", "recurrent"])
def test_an_untrained_layer_costs_what_the_account_has(kind: str, folder: Path) -> None:
    """By counted steps: what it proposes is never right, and it seems cheap enough to try."""
    model, window = opened(bundle(kind, folder)), Window(CHEAP, 16)
    ahead = Speculating(model, FurtherTokens(opening(model)), window, 15)
    steps = len(answer(ahead, Sampling(), 100).tokens) - 1
    assert ahead.tally.proposed > ahead.tally.right
    assert steps < window.spent <= 1.015 * steps + 0.5


def test_a_trained_layer_halves_the_steps_and_drawn_texts_are_the_models(
    tmp_path: Path,
) -> None:
    """On texts that it has seen, of a tiny random model: what is trained is what proposes; no figure for real ones."""
    checkpoint = mtp_checkpoints.save(mtp_checkpoints.ATTENDING, tmp_path / "checkpoint")
    prompts = torch.randint(3, 320, (16, len(PROMPT)), generator=torch.Generator().manual_seed(0))
    mtp_checkpoints.train(checkpoint, prompts, length=32, steps=60)
    (tmp_path / "recipe.toml").write_text("mtp = true\n[weights]\nbits = 32\n")
    export(checkpoint, out=tmp_path / "bundle", target="x86-cpu", recipe=tmp_path / "recipe.toml", threads=1)
    model, steps, tokens = opened(tmp_path / "bundle"), 0, 0
    for prompt in prompts[:8].tolist():
        wanted = list(Generation(model, prompt, Sampling(), 32, StopStrings([]))._tokens())
        ahead = Speculating(model, FurtherTokens(opening(model)), Window(CHEAP, 4), 3)
        assert list(Generation(ahead, prompt, Sampling(), 32, StopStrings([]))._tokens()) == wanted
        steps, tokens = steps + ahead.tally.steps, tokens + len(wanted)
    assert tokens > 100
    assert steps <= 0.5 * tokens, (steps, tokens)
    ahead = Speculating(model, FurtherTokens(opening(model)), Window(CHEAP, 4), 3)
    right = check_distribution(opened(tmp_path / "bundle"), ahead, prompts[0].tolist(), 400)
    assert 0.05 < right < 0.95, right  # it was trained on greedy texts


def test_rows_of_hidden_states_go_with_the_text_where_tokens_are_forgotten(folder: Path) -> None:
    model = opened(bundle("attending", folder))
    kept = model.session.keep_hidden()
    model.prefill([*PROMPT, 50, 60, 70])
    before = kept.rows[:10].copy()
    model.session.evict(2, 3)
    np.testing.assert_array_equal(kept.rows[:7], np.concatenate([before[:2], before[5:]]))
    assert kept.first == 0
    kept.replaced(7)
    model.decode(5)
    model.session.evict(2, 3)
    assert kept.first == 4  # what was computed elsewhere stays unknown
