"""A number means what it says: 0 is 0, false is no number, and a model holds one text."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_models import save

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.decide.prepare import decide
from edgepress.exporter.learn.loss_by_tensor import measure_loss_by_tensor
from edgepress.runtime import Model, bench, evaluate, load
from edgepress.whole import whole_number

PROMPTS = ("To be, or", "whether tis nobler", "the slings and arrows")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(save("llama", directory / "checkpoint"), out=directory / "bundle", recipe="int4")
    return directory / "bundle"


@pytest.fixture
def model(bundle: Path) -> Model:
    return load(bundle, threads=1, prepared=False)


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [-1, 10**6, -(2**63), 2**70, 1.0, 1.5, np.float32(2), True, None, "3", [3]])
def test_decode_refuses_what_is_no_token_and_keeps_the_text(model: Model, token: object) -> None:
    expected = (model.prefill([3, 4]).copy(), model.decode(5).copy())[1]
    model.reset()
    model.prefill([3, 4])
    with pytest.raises(InputError, match="the token is"):
        model.decode(token)  # type: ignore[arg-type]
    assert np.array_equal(model.decode(np.int32(5)), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tokens",
    [[], [-1], [10**6], [2**70], [1.5], [3, 4.0], [True], [3, True], ["a"], [None], [[3, 4]], np.ones(1),
     np.ones((1, 2), int)],
)  # fmt: skip
def test_prefill_and_generate_refuse_what_are_no_tokens(model: Model, tokens: list[int]) -> None:
    for use in (model.prefill, model.generate):
        with pytest.raises(InputError, match=r"token|prompt"):
            use(tokens)


def test_tokens_of_any_integer_type_are_tokens(model: Model) -> None:
    expected = model.prefill([3, 4]).copy()
    for tokens in (np.array([3, 4], np.uint8), np.array([3, 4], np.uint64), (3, np.int16(4))):
        model.reset()
        assert np.array_equal(model.prefill(tokens), expected)  # type: ignore[arg-type]


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_a_second_text_ends_the_first_with_an_error_and_not_in_its_middle(model: Model) -> None:
    alone = [model.generate(prompt, max_tokens=12).text() for prompt in PROMPTS[:2]]
    first, second = (model.generate(prompt, max_tokens=12) for prompt in PROMPTS[:2])
    begun = next(first)
    rest = next(second)
    for _ in range(2):  # and it stays an error
        with pytest.raises(InputError, match=r"another text after .* load the bundle once for each"):
            next(first)
    assert alone[0].startswith(begun)
    assert rest + second.text() == alone[1]


def test_texts_that_are_taken_one_after_the_other_are_each_whole(model: Model) -> None:
    alone = [model.generate(prompt, max_tokens=8).text() for prompt in PROMPTS]
    generations = [model.generate(prompt, max_tokens=8) for prompt in PROMPTS]
    assert [generation.text() for generation in generations] == alone


def test_a_generation_that_is_only_made_leaves_the_one_that_runs(model: Model) -> None:
    alone = model.generate(PROMPTS[0], max_tokens=12).text()
    first = model.generate(PROMPTS[0], max_tokens=12)
    begun = next(first)
    model.generate(PROMPTS[1], max_tokens=12)
    assert begun + first.text() == alone


@pytest.mark.parametrize(
    "change",
    [Model.reset, lambda model: model.prefill([3]), lambda model: model.decode(3)],
    ids=["reset", "prefill", "decode"],
)
def test_a_text_that_somebody_else_goes_on_with_says_so(model: Model, change: Callable[[Model], object]) -> None:
    first = model.generate(PROMPTS[0], max_tokens=12)
    next(first)
    change(model)
    with pytest.raises(InputError, match="another text"):
        next(first)


def test_a_text_that_is_done_is_left_alone(model: Model) -> None:
    first = model.generate(PROMPTS[0], max_tokens=3)
    first.text()
    model.generate(PROMPTS[1], max_tokens=3).text()
    assert first.text() == ""
    assert first.stop_reason is not None


# ---- numbers ---------------------------------------------------------------------------------------------------------

NO_COUNTS = [0, -1, False, True, 2.0, "2", float("nan")]
QUICK = {"repetitions": 1, "warmup": 0, "decode_tokens": 2, "threads": 1, "prepared": False}


@pytest.mark.parametrize("number", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["context", "threads", "prefill_chunk", "decode_tokens", "repetitions"])
def test_bench_takes_numbers_as_they_are(bundle: Path, name: str, number: object) -> None:
    with pytest.raises(InputError, match=name):
        bench(bundle, prompt_lengths=[2], **{**QUICK, name: number})  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [[], [0], [-1], [True], [2.0]], ids=repr)
def test_bench_takes_prompt_lengths_as_they_are(bundle: Path, lengths: list[int]) -> None:
    with pytest.raises(InputError, match="prompt length"):
        bench(bundle, prompt_lengths=lengths, **QUICK)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["context", "threads", "prefill_chunk"])
def test_load_takes_numbers_as_they_are(bundle: Path, name: str, number: object) -> None:
    with pytest.raises(InputError, match=name):
        load(bundle, prepared=False, **{name: number})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", NO_COUNTS, ids=repr)
def test_generate_takes_max_tokens_as_it_is(model: Model, number: object) -> None:
    with pytest.raises(InputError, match="max_tokens"):
        model.generate("To be", max_tokens=number)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["top_k", "seed"])
def test_generate_takes_no_boolean_for_a_number(model: Model, name: str) -> None:
    with pytest.raises(InputError, match=name):
        model.generate("To be", **{name: True})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [True, "1", None], ids=repr)
def test_generate_takes_only_numbers_for_numbers(model: Model, name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        model.generate("To be", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["context", "stride", "threads"])
def test_evaluate_takes_numbers_as_they_are(bundle: Path, name: str, number: object) -> None:
    given = {"context": 16, "stride": 8, "threads": 1, name: number}
    with pytest.raises(InputError, match=name):
        evaluate(bundle, ["To be, or not to be"], prepared=False, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", NO_COUNTS, ids=repr)
def test_exports_take_numbers_as_they_are(bundle: Path, tmp_path: Path, number: object) -> None:
    checkpoint = bundle.parent / "checkpoint"
    with pytest.raises(InputError, match="context"):
        decide(checkpoint, target="arm64-cpu", recipe="int4", context_length=number)  # type: ignore[arg-type]
    for name in ("context_length", "threads"):
        with pytest.raises(InputError, match=r"context|threads"):
            export(checkpoint, out=tmp_path / "out", recipe="int4", **{name: number})  # type: ignore[arg-type]
    for name in ("tokens", "threads"):
        with pytest.raises(InputError, match=name):
            measure_loss_by_tensor(bundle, checkpoint, **{name: number})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_whole_number_is_one() -> None:
    assert whole_number("it", 3) == 3
    assert whole_number("it", np.int64(3), most=3) == 3
    assert whole_number("it", 0, least=0) == 0
    with pytest.raises(InputError, match="it is 4; it must be 1 to 3"):
        whole_number("it", 4, most=3)
    with pytest.raises(InputError, match=r"it is np\.True_; it must be a whole number"):
        whole_number("it", np.True_)
