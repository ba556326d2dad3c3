"""The shipped demo model is what its card says, and the script that made it still works."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from edgepress.errors import InputError
from edgepress.exporter.demo import DEMO_DIRECTORY, train
from edgepress.exporter.demo.card import read_bits_per_byte

TEXT = train.default_data() / train.TEXT_IN_DATA
needs_data = pytest.mark.skipif(not TEXT.exists(), reason=f"no tinyshakespeare at {TEXT}; set EDGEPRESS_DATA")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    loaded = AutoModelForCausalLM.from_pretrained(DEMO_DIRECTORY, dtype=torch.float32)
    assert isinstance(loaded, LlamaForCausalLM)
    return loaded


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(DEMO_DIRECTORY)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def test_the_model_is_a_tied_grouped_query_llama(model: LlamaForCausalLM) -> None:
    config = model.config
    assert config.model_type == "llama"
    assert (config.num_attention_heads, config.num_key_value_heads) == (8, 2)
    assert config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert config.max_position_embeddings >= 256
    assert 1_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 2_000_000


def test_the_file_is_small_and_all_bfloat16() -> None:
    path = DEMO_DIRECTORY / "model.safetensors"
    assert path.stat().st_size <= 4_000_000
    with safe_open(path, framework="pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118 - no dict
    assert json.loads((DEMO_DIRECTORY / "config.json").read_text())["dtype"] == "bfloat16"


def test_every_matrix_divides_into_blocks_of_128_along_its_input(model: LlamaForCausalLM) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            assert parameter.shape[1] % 128 == 0, name


def test_the_tokenizer_is_byte_level_and_puts_the_beginning_first(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 1024
    text = "ROMEO:\nBut, soft!  naïve ☃\t\n"
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids[1:]) == text
    configuration = json.loads((DEMO_DIRECTORY / "tokenizer_config.json").read_text())
    assert (configuration["add_bos_token"], configuration["add_eos_token"]) == (True, False)  # as genai reads it


def test_the_card_states_what_is_shipped(model: LlamaForCausalLM) -> None:
    card = (DEMO_DIRECTORY / "README.md").read_text()
    assert read_bits_per_byte(DEMO_DIRECTORY) < 2.2
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,}" in card
    for row in ("data", "held-out part", "steps", "training time", "host", "versions"):
        assert f"\n| {row} | " in card


@needs_data
def test_the_card_states_the_held_out_bits_per_byte(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    _, held_out = train.split_text(TEXT.read_bytes().decode())
    assert f"the last {len(held_out.encode()):,} bytes" in (DEMO_DIRECTORY / "README.md").read_text()
    measured = train.bits_per_byte(model, tokenizer, held_out)
    assert measured == pytest.approx(read_bits_per_byte(DEMO_DIRECTORY), rel=0.01)


@needs_data
def test_the_model_writes_words_of_shakespeare(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    known = set(re.findall(r"[a-z]+", TEXT.read_text().lower()))
    texts = [train.sample_text(model, tokenizer, "ROMEO:", seed) for seed in (1, 2)]
    words = re.findall(r"[a-z]{2,}", " ".join(texts).lower())
    assert len(words) > 100
    assert len(set(words)) > 60  # it does not repeat itself
    assert sum(word in known for word in words) / len(words) > 0.9
    assert any(re.search(r"\n\n[A-Z][A-Za-z ]+:\n", text) for text in texts)  # another speaker speaks


def test_greedy_text_is_not_one_token_over_and_over(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = torch.tensor([tokenizer.encode("KING RICHARD II:\n")])
    generating = cast("Any", model)  # the annotations of `generate` do not admit a LlamaForCausalLM
    written = generating.generate(prompt, max_new_tokens=40, do_sample=False)[0, prompt.shape[1] :]
    assert len(set(written.tolist())) > 12


@pytest.mark.parametrize(("window", "stride", "length"), [(8, 4, 30), (8, 4, 5), (8, 7, 31), (8, 3, 9)])
def test_document_loss_against_one_token_at_a_time(window: int, stride: int, length: int) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    document = torch.randint(20, (length,))
    expected = 0.0
    for position in range(1, length):
        # The window in which a token is new: the first that reaches it.
        start = max(0, math.ceil((position + 1 - window) / stride)) * stride
        with torch.no_grad():
            logits = model(document[None, start:position]).logits[0, -1].double()
        expected -= float(logits.log_softmax(-1)[document[position]])
    assert train.document_loss(model, document, window, stride) == pytest.approx(expected, rel=1e-5)


def test_document_loss_refuses_windows_that_leave_tokens_unscored(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="stride is 8; it must be from 1 to 7"):
        train.document_loss(model, torch.zeros(20, dtype=torch.int64), window=8, stride=8)


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("windows", 0), ("threads", -1), ("dropout", 1.0), ("long_share", -0.1)]
)
def test_settings_refuse_what_cannot_be_trained(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        train.Settings(**{name: value})  # type: ignore[arg-type]  # names and values vary together


def test_the_learning_rate_rises_to_the_peak_and_falls_to_a_hundredth_of_it() -> None:
    settings = train.Settings(steps=1000, warmup_steps=10, peak_learning_rate=1.0)
    rates = [train.learning_rate(step, settings) for step in range(1000)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-4)


def test_the_script_trains_saves_and_describes_a_model(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(3000)]
    speeches = (f"Speaker:\n{' '.join(rng.choices(words, k=12))}." for _ in range(400))
    source = tmp_path / "data" / train.TEXT_IN_DATA
    source.parent.mkdir(parents=True)
    source.write_text("\n\n".join(speeches))
    out = tmp_path / "model"
    command = ["--data", str(tmp_path / "data"), "--out", str(out), "--steps", "2", "--windows", "1"]
    train.main(command)
    model, tokenizer = train.load(out)
    _, held_out = train.split_text(source.read_text())
    assert train.bits_per_byte(model, tokenizer, held_out) == pytest.approx(read_bits_per_byte(out), rel=1e-4)
    assert "--steps 2 --windows 1\n" in (out / "README.md").read_text()
    train.main(command)  # in the place of the first
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"holds README.md, config.json, generation_config.json and 4 more"):
        train.main(command)
    (out / "thesis.tex").unlink()
    (out / "README.md").write_text("# Another Llama, whose files have the same names")
    with pytest.raises(InputError, match="not just a model that this script wrote"):
        train.main(command)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
