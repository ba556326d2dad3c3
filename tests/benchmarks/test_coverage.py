"""The benchmark that tries every class of transformers: it tells right from refused and from wrong."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import transformers


@pytest.fixture(name="coverage")
def _coverage(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("coverage")


def verdict(coverage: ModuleType, kind: str, folder: Path) -> dict[str, Any]:
    return coverage.try_class(coverage.tiny_config(kind), 1, folder, peers=False)


def test_a_family_of_ours_is_right(coverage: ModuleType, tmp_path: Path) -> None:
    found = verdict(coverage, "llama", tmp_path)
    assert found["verdict"] == "right"
    assert 0 < found["difference"] < coverage.TOLERANCE


def test_what_is_no_decoder_is_refused_with_the_reason(coverage: ModuleType, tmp_path: Path) -> None:
    found = verdict(coverage, "bert", tmp_path)
    assert found["verdict"] == "refused"
    assert "it is an encoder" in found["reason"]


def test_other_logits_are_wrong(coverage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = coverage.Reference.__call__
    monkeypatch.setattr(coverage.Reference, "__call__", lambda self, tokens: theirs(self, tokens) * 1.001)
    found = verdict(coverage, "llama", tmp_path)
    assert found["verdict"] == "wrong"
    assert "logits differ by 1.0e-03" in found["reason"]


def test_another_token_is_wrong(coverage: ModuleType) -> None:
    logits = np.zeros((coverage.PROMPT + 1, 5), np.float32)
    logits[:, 2] = 1.0
    tokens = [0] * coverage.PROMPT + [2, 2]
    assert coverage._near_greedy(logits, tokens)
    tokens[-1] = 3
    assert not coverage._near_greedy(logits, tokens)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_neox", "mixtral", "qwen3_next"])
def test_configs_are_small_and_keep_their_flags(coverage: ModuleType, kind: str) -> None:
    small, default = coverage.tiny_config(kind), transformers.CONFIG_MAPPING[kind]()
    assert small.vocab_size == coverage.VOCABULARY
    assert small.hidden_size == 128
    key = "hidden_act" if hasattr(default, "hidden_act") else "hidden_activation"
    assert getattr(small, key) == getattr(default, key)
    kinds = set(getattr(default, "layer_types", None) or [])
    assert set(getattr(small, "layer_types", None) or []) == kinds


def test_configs_of_halves_are_small_too(coverage: ModuleType) -> None:
    small = coverage.tiny_config("t5gemma")
    assert (small.encoder.hidden_size, small.decoder.hidden_size) == (128, 128)
    assert small.decoder.num_hidden_layers == coverage.tiny_config("llama").num_hidden_layers
    assert coverage.tiny_config("encoder-decoder").encoder.model_type == "bert"


def test_what_a_decoder_begins_with_is_a_token(coverage: ModuleType) -> None:
    assert coverage.tiny_config("marian").decoder_start_token_id < coverage.VOCABULARY


def test_a_vocabulary_that_only_a_checkpoint_has(coverage: ModuleType) -> None:
    assert transformers.CONFIG_MAPPING["wav2vec2-bert"]().vocab_size is None
    assert coverage.tiny_config("wav2vec2-bert").vocab_size == coverage.VOCABULARY


def test_types_that_apps_ship_are_tried_first(import_script: Callable[[str], ModuleType]) -> None:
    tasks = import_script("coverage_tasks")
    assert set(transformers.CONFIG_MAPPING) >= tasks.SHIPPED
    trials = tasks.classes()
    shipped = [trial.model_type in tasks.SHIPPED for trial in trials]
    assert shipped == sorted(shipped, reverse=True)
    assert [trial.layers for trial in trials if trial.model_type == "bert"][:2] == [2, 1]


def test_tables_count_verdicts_and_give_reasons(import_script: Callable[[str], ModuleType]) -> None:
    right = {"model_type": "a", "verdict": "right", "reason": "", "difference": 2e-6}
    refused = {"model_type": "b", "verdict": "refused", "reason": "architecture 'b' is not implemented; known: a"}
    text = import_script("coverage_tables").report([refused, {**right, "genai": {"verdict": "wrong", "reason": "x"}}])
    assert "| edgepress | 1 | 0 | 1 | 0 |" in text
    assert "| onnxruntime-genai's builder | 0 | 1 | 0 | 0 |" in text
    rows = ("| `a` | right | wrong | 2.0e-06 |", "| `b` | refused |  | architecture 'b' is not implemented |")
    assert "\n".join(rows) in text


def test_a_whole_is_compared_by_its_own_class(coverage: ModuleType, tmp_path: Path) -> None:
    auto = transformers.AutoModelForMultimodalLM
    found = coverage.try_class(coverage.tiny_config("paddleocr_vl"), 1, tmp_path, peers=False, auto=auto)
    assert found["verdict"] == "right", found["reason"]


def test_a_whole_stands_in_the_table_with_its_text_model(import_script: Callable[[str], ModuleType]) -> None:
    right = {"model_type": "a", "text": "b", "verdict": "right", "reason": "", "difference": 2e-6}
    text = import_script("coverage_wholes").report([right, {**right, "text": "", "verdict": "refused", "reason": "no"}])
    assert "| 1 | 0 | 1 | 0 |" in text
    assert "| `a` | `b` | right | 2.0e-06 |\n| `a` |  | refused | no |" in text


def test_wholes_are_the_classes_that_take_more_than_text(import_script: Callable[[str], ModuleType]) -> None:
    found = import_script("coverage_wholes").classes()
    assert found["llava"] == ("LlavaForConditionalGeneration", "AutoModelForMultimodalLM")
    assert "audioflamingo3" in found
    assert not {"llama", "qwen3_5_text", "t5"} & set(found)
