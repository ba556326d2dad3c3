"""What the vocabulary benchmark is measured on, and what it says should be saved."""

import json
from collections.abc import Callable
from types import ModuleType

import pytest

from edgepress.exporter.tokens.corpus import choose_tokens, count_usage
from edgepress.exporter.tokens.tokenizer import prune_tokenizer, read_vocabulary


@pytest.fixture(name="script")
def _script(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("vocabulary")


def test_the_made_up_tokenizer_has_its_size_and_can_be_pruned(script: ModuleType) -> None:
    tokenizer = script.make_tokenizer(900)
    assert tokenizer.get_vocab_size() == 900
    text = script.make_text(tokenizer, 200)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    vocabulary = read_vocabulary(json.loads(tokenizer.to_str()), rows=900)
    choice = choose_tokens(vocabulary, count_usage([text], tokenizer), size=640)
    assert len(prune_tokenizer(vocabulary, choice.keep).kept) == 640


@pytest.mark.parametrize("tied", [True, False])
def test_what_should_be_saved(script: ModuleType, tied: bool) -> None:
    def weight(rows: int) -> object:
        tensors = [
            {"name": "embedding", "bytes_after": 10 * rows, "shape": [rows, 20]},
            {"name": "layers.0", "bytes_after": 3000, "shape": [60, 50]},
        ]
        tensors += [] if tied else [{"name": "head", "bytes_after": 20 * rows, "shape": [rows, 20]}]
        size = sum(int(str(tensor["bytes_after"])) for tensor in tensors)
        return script.weigh("name", {"tensors": tensors, "files": {"model.onnx.data": {"size": size}}})

    expected = script.expected(weight(100), weight(40))
    assert expected == pytest.approx((600 / 4000, 600 / 4000) if tied else (1800 / 6000, 1200 / 5000))


def test_the_heads_time_in_a_profile(script: ModuleType) -> None:
    """Its kernels by step, the prompt left out; a head in pieces."""

    def event(name: str, microseconds: int, category: str = "Node") -> dict[str, object]:
        return {"cat": category, "name": name, "dur": microseconds}

    prompt = [event("layers.0_kernel_time", 10_000), event("logits/1_kernel_time", 9), event("logits_kernel_time", 9)]
    step = [event("layers.0_kernel_time", 60), event("logits/1_kernel_time", 15), event("logits_kernel_time", 5)]
    outside = [event("model_run", 5000, "Session"), event("logits_fence_before", 7)]
    assert script.head_times(prompt + outside + (step + outside) * script.STEPS) == [20] * script.STEPS
