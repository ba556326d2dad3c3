"""Texts that are longer than the context: what stays, and that the rest of the text is that of a text of what stays."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Model, Speculation, load
from edgepress.runtime.generation.forgetting import Forgetting

CONTEXT = 24
PROMPT = [5, 9, 17, 33, 2]


@pytest.fixture(scope="module", params=["qwen3", "qwen3_5_text"])  # with states that cannot be taken back, too
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("forgetting")
    checkpoint = save(request.param, folder / "checkpoint")
    export(checkpoint, out=folder / "bundle", recipe="fp32", target="x86-cpu", threads=1)
    return load(folder / "bundle", threads=1, context=CONTEXT, prepared=False)


@given(st.integers(2, 60), st.integers(0, 9), st.floats(0.01, 0.99), st.integers(2, 50))
def test_the_first_tokens_and_the_last_stay(length: int, first: int, share: float, context: int) -> None:
    text, forgetting = list(range(length + context)), Forgetting(first, share)
    if context - max(1, int(context * share)) <= first:
        with pytest.raises(InputError, match=f"the first {first} tokens always stay"):
            forgetting.kept(text, context)
        return
    kept = forgetting.kept(text, context)
    assert kept[:first] == text[:first]
    assert kept[first:] == text[-len(kept) + first :]
    assert first < len(kept) < context
    assert context - len(kept) == max(1, int(context * share))


def test_a_long_answer_is_that_to_what_stays(model: Model) -> None:
    bias = dict.fromkeys(model.eos, -np.inf)
    forgetting = Forgetting(first=3, share=0.5)
    generation = model.generate(PROMPT, max_tokens=70, forgetting=forgetting, bias=bias, temperature=1.0, seed=1)
    generation.text()
    assert (generation.stop_reason, len(generation.tokens)) == ("max_tokens", 70)
    text, held, made = list(PROMPT), list(PROMPT), []
    random = np.random.default_rng(1)
    while len(made) < 70:  # the same by hand: what stays is computed as a text of its own
        if len(held) > CONTEXT:
            held = [*text[:3], *text[-(CONTEXT - CONTEXT // 2 - 3) :]]
        model.reset()
        logits = model.prefill(held).astype(np.float64)
        logits[list(model.eos)] = -np.inf
        chances = np.exp(logits - logits.max())
        cumulative = np.cumsum(chances / chances.sum())
        token = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
        made.append(token)
        text.append(token)
        held.append(token)
    assert generation.tokens == made
    assert generation.forgotten == len(text) - 1 - len(held) + 1 > 40
    assert f"{generation.forgotten} tokens forgotten" in generation.statistics()


def test_steps_over_several_tokens_forget_alike(model: Model) -> None:
    bias, forgetting = dict.fromkeys(model.eos, -np.inf), Forgetting(first=2, share=0.4)
    texts = [
        model.generate(PROMPT * 3, max_tokens=60, forgetting=forgetting, bias=bias, speculate=speculate).text()
        for speculate in (None, Speculation(exact=False))
    ]
    assert texts[0] == texts[1]


def test_a_longer_prompt_loses_its_middle_and_without_forgetting_a_text_ends(model: Model) -> None:
    bias = dict.fromkeys(model.eos, -np.inf)
    generation = model.generate(list(range(3, 43)), max_tokens=2, forgetting=Forgetting(4, 0.5), bias=bias)
    assert generation.prompt == [3, 4, 5, 6, *range(35, 43)]
    generation.text()
    plain = model.generate(PROMPT, bias=bias)
    plain.text()
    assert (plain.stop_reason, len(plain.tokens)) == ("context", CONTEXT - len(PROMPT) + 1)
    with pytest.raises(InputError, match=r"the share that is forgotten is 1\.5"):
        Forgetting(share=1.5)
