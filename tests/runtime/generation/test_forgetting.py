"""Texts that are longer than the context: what stays, and that the rest of the text is that of a text of what stays."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import VARIANTS, save_variant

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Model, Speculation, load
from edgepress.runtime.generation.contrast import Contrast
from edgepress.runtime.generation.forgetting import Forgetting, Way

CONTEXT = 24
PROMPT = [5, 9, 17, 33, 2]
ONE_LAYER = " of one layer"  # what is kept of a token there does not know the tokens before it
COMPUTING, MOVING = "computing", "moving"


@cache
def opened(name: str) -> Model:
    variant, folder = VARIANTS[name.removesuffix(ONE_LAYER)], HOME[0] / name
    if name.endswith(ONE_LAYER):
        variant = replace(variant, config={**variant.config, "num_hidden_layers": 1})
    checkpoint = save_variant(variant, folder / "checkpoint", seed=1)
    export(checkpoint, out=folder / "bundle", recipe="fp32", target="x86-cpu", threads=1)
    return load(folder / "bundle", threads=1, context=CONTEXT, prepared=False)


HOME: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> None:
    HOME[:] = [tmp_path_factory.mktemp("forgetting")]


@pytest.fixture(params=["qwen3", "qwen3_5_text"])  # with states that cannot be taken back, too
def model(request: pytest.FixtureRequest, home: None) -> Model:  # noqa: ARG001 - the folder comes first
    return opened(request.param)


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


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("qwen3", COMPUTING),
        ("qwen3_5_text", COMPUTING),
        *((f"{name}{ONE_LAYER}", MOVING) for name in ("qwen3", "gptj", "bloom", "deepseek_v3")),
    ],
)
def test_a_long_answer_is_that_to_what_stays(name: str, way: Way) -> None:
    model = opened(name)
    bias = dict.fromkeys(model.eos, -np.inf)
    forgetting = Forgetting(first=3, share=0.5, way=way)
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
        token = int((logits - np.log(random.exponential(size=logits.size))).argmax())  # Gumbel noise
        made.append(token)
        text.append(token)
        held.append(token)
    assert generation.tokens == made
    assert generation.forgotten == len(text) - 1 - len(held) + 1 > 40
    again = f", {generation.computed_again} computed again" if way == COMPUTING else "; "
    assert f"{generation.forgotten} tokens forgotten{again}" in generation.statistics()
    assert (generation.computed_again > 40) == (way == COMPUTING)


@pytest.mark.parametrize("way", [COMPUTING, MOVING])
def test_steps_over_several_tokens_forget_alike(model: Model, way: Way) -> None:
    bias, forgetting = dict.fromkeys(model.eos, -np.inf), Forgetting(first=2, share=0.4, way=way)
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
    with pytest.raises(InputError, match="goes on by 'luck'; it must be by moving or by computing"):
        Forgetting(way="luck")


def test_what_is_left_open_follows_from_the_model_and_what_cannot_be_is_refused() -> None:
    bound, free = opened("gpt2"), opened("qwen3")
    assert Forgetting().for_text(free, 64) == Forgetting(4, 0.125, MOVING)
    assert Forgetting().for_text(bound, 64) == Forgetting(4, 0.5, COMPUTING)
    assert Forgetting(share=0.25).for_text(bound, 64) == Forgetting(4, 0.25, COMPUTING)
    with pytest.raises(InputError, match="cannot be moved: nothing says how its keys are rotated"):
        bound.generate(PROMPT, forgetting=Forgetting(way=MOVING))
    with pytest.raises(InputError, match=r"the first 30 tokens always stay, and of a context of 24 a share of 0\.125"):
        free.generate(PROMPT, forgetting=Forgetting(first=30))


def test_a_text_begins_anew_where_what_is_kept_saw_forgotten_tokens() -> None:
    model = opened("qwen3")
    bias = dict.fromkeys(model.eos, -np.inf)
    generation = model.generate(PROMPT, max_tokens=40, forgetting=Forgetting(3, 0.5, MOVING), bias=bias)
    generation.text()
    text = [*PROMPT, *generation.tokens][:-1]
    stays = [*text[:3], *text[3 + generation.forgotten :], 7]
    assert len(stays) == model.session.position + 1
    found = model.begin(stays, reuse=True).copy()
    assert model.reused == 3  # these saw nothing that was forgotten
    np.testing.assert_allclose(found, model.begin(stays, reuse=False), atol=1e-4 * np.abs(found).max())


def test_a_contrast_forgets_in_both_models() -> None:
    model, amateur = (opened(f"{name}{ONE_LAYER}") for name in ("qwen3", "llama"))
    how, texts = Contrast(amateur, plausible=0.01), []
    for way in (COMPUTING, MOVING):
        forgetting = Forgetting(3, 0.5, way)
        generation = model.generate(
            PROMPT, max_tokens=60, forgetting=forgetting, contrast=how, temperature=1.0, seed=3, bias={2: -np.inf}
        )
        texts.append(generation.text())
        assert amateur.session.position == model.session.position < CONTEXT
    assert texts[0] == texts[1]


def test_the_command_goes_on_beyond_the_context(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", str(opened("qwen3").config.bundle), "--prompt", "To be", "--context", str(CONTEXT)]
    for more, said in (("--forget-first 0", "tokens forgotten; "), ("--forget-by computing", "computed again; ")):
        main([*asked, "--max-tokens", "60", "--bias", "</s>=-100", "--forget", "0.25", *more.split()])
        assert said in capsys.readouterr().err
    assert main([*asked, "--forget-by", "moving"]) == 2
    assert "--forget-by and --forget-first say how; give --forget SHARE, too" in capsys.readouterr().err
