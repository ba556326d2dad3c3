"""Vocabulary pruning: the smaller model is the larger one, cut to the tokens that are kept."""

import json
import os
import tracemalloc
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from prune_tasks import asked, prune_task, pruning
from safetensors import safe_open
from sessions import genai_tokens, greedy_tokens
from tiny_models import TEXT, VOCABULARY, held_on, save
from tokenizers import Tokenizer
from whole_models import load

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.demo import DEMO_DIRECTORY
from edgepress.exporter.methods.shrink import vocabulary
from edgepress.exporter.methods.smaller.checkpoint import NewTensor, write_safetensors
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.recipe.recipe import OptionValue
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens import corpus
from edgepress.exporter.tokens.tokenizer import PrunedTokenizer
from edgepress.text.tokenizer import read_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
METHOD = pruning("vocabulary")
DATA = Path(os.environ.get("EDGEPRESS_DATA", Path(__file__).resolve().parents[3].parent / "shared" / "data"))
WORDS = "to be or not to be, the question: "  # some of what the tiny tokenizer was trained on


def prune(model: Path, out: Path, text: str = WORDS, **options: OptionValue) -> PruneTask:
    task = prune_task(model, out, text=text)
    METHOD.run(task, asked(METHOD, options))
    return task


@pytest.mark.parametrize("name", held_on("vocabulary"))
def test_logits_are_the_original_s_at_the_kept_tokens(tmp_path: Path, name: str) -> None:
    model = save(name, tmp_path / "model")
    task = prune(model, tmp_path / "out")
    kept, (_, decoder) = torch.from_numpy(task.kept_tokens), task.written
    assert 0 < len(kept) == decoder.vocab_size < VOCABULARY
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, len(kept), (2, 20)))
    with torch.no_grad():
        expected = load(model)(kept[tokens]).logits[..., kept]
        found = load(task.out)(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["llama-bfloat16-gelu", "gpt2"])
def test_rows_are_copied_bit_for_bit(tmp_path: Path, name: str) -> None:
    model = save(name, tmp_path / "model")
    task = prune(model, tmp_path / "out")
    with safe_open(model / "model.safetensors", "pt") as old, safe_open(task.out / "model.safetensors", "pt") as new:
        for tensor in new.keys():  # noqa: SIM118 - no dict
            before, after = old.get_tensor(tensor), new.get_tensor(tensor)
            assert before.dtype == after.dtype
            rows = len(before) == VOCABULARY
            assert torch.equal(after, before[torch.from_numpy(task.kept_tokens)] if rows else before), tensor


def test_ids_in_every_file_are_the_new_ones(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 300], "suppress_tokens": [301]}')
    (model / "tokenizer.model").write_bytes(b"what no file of a bundle can be read from")
    task = prune(model, tmp_path / "out")
    kept = task.kept_tokens.tolist()
    config = json.loads((task.out / "config.json").read_text())
    assert config["vocab_size"] == len(kept)
    assert [kept[config[f"{name}_token_id"]] for name in ("pad", "bos", "eos")] == [0, 1, 2]
    generation = json.loads((task.out / "generation_config.json").read_text())
    assert [kept[token] for token in generation["eos_token_id"]] == [2, 300]  # 300 is kept for that alone
    assert not (task.out / "tokenizer.model").exists()
    old, new = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (model, task.out))
    assert [kept[token] for token in new.encode(WORDS).ids] == old.encode(WORDS).ids
    ids = old.encode(WORDS).ids
    facts = {"vocabulary": [VOCABULARY, len(kept)], "text_tokens": len(ids), "text_uses": len({*ids}), "text_kept": 1}
    assert facts.items() <= task.report.items()


def test_rows_beyond_the_tokenizer_go_and_a_second_step_knows_the_first_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "ROWS", 1)
    model = save("qwen2", tmp_path / "model")
    tokens = json.loads((model / "tokenizer.json").read_text())
    longest = [entry for entry, token in tokens["model"]["vocab"].items() if token >= 310]  # rows 310 … become padding
    tokens["model"]["vocab"] = {entry: token for entry, token in tokens["model"]["vocab"].items() if token < 310}
    tokens["model"]["merges"] = [pair for pair in tokens["model"]["merges"] if "".join(pair) not in longest]
    (model / "tokenizer.json").write_text(json.dumps(tokens))
    task = prune(model, tmp_path / "first", TEXT, size=310)
    assert task.kept_tokens.max() < 310
    again = prune_task(task.out, tmp_path / "second", text=WORDS)
    again.kept_tokens = task.kept_tokens
    METHOD.run(again, dict(METHOD.options))
    old, new = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (model, again.out))
    assert len(again.kept_tokens) < len(task.kept_tokens)
    for index, token in enumerate(again.kept_tokens.tolist()):
        assert new.id_to_token(index) == old.id_to_token(token)
    with pytest.raises(InputError, match=f"keeps all {len(again.kept_tokens)} tokens"):
        prune(again.out, tmp_path / "third")


def test_what_is_always_kept(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    library = Tokenizer.from_file(str(model / "tokenizer.json"))
    wanted = set(library.encode(" slings").ids)
    assert not wanted <= set(prune(model, tmp_path / "without").kept_tokens.tolist())
    assert wanted <= set(prune(model, tmp_path / "with", always=" slings").kept_tokens.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "size is 100 tokens and at least 259 must stay"),
        ({"size": -1}, "size must be at least 0"),
        ({"least": 0}, "least must be at least 1"),
    ],
)
def test_a_size_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, OptionValue], message: str) -> None:
    model = save("llama", tmp_path / "model")
    with pytest.raises(InputError, match=message):
        prune(model, tmp_path / "out", TEXT, **options)
    assert not (tmp_path / "out" / "out").exists()


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_token_that_no_tokenizer_has_is_named(tmp_path: Path, name: str) -> None:
    model = save("llama", tmp_path / "model")
    (model / name).write_text('{"eos_token_id": 319, "pad_token_id": -1}')
    with pytest.raises(InputError, match=f"{name} names token 319"):
        prune(model, tmp_path / "out")


def test_memory_is_that_of_a_piece(tmp_path: Path) -> None:
    rows, columns = 60_000, 256  # 61 MB of float32
    checkpoint = Checkpoint.open(save("llama", tmp_path / "model"))
    config = {**checkpoint.config, "vocab_size": rows, "tie_word_embeddings": True, "hidden_size": columns}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    decoder = describe(config, checkpoint.tensors.keys() - {"lm_head.weight"})
    tensors = {part.tensor: (part.stop, *weight.shape[1:]) for weight in decoder.weights() for part in weight.parts}
    new = [NewTensor(name, "F32", shape, partial(zeros, shape[1:])) for name, shape in tensors.items()]
    write_safetensors(tmp_path / "model" / "model.safetensors", new)
    task, kept = prune_task(tmp_path / "model", tmp_path / "out"), np.r_[0:3, 3:rows:3]
    tracemalloc.start()
    vocabulary.keep_tokens(task, PrunedTokenizer({}, kept))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert task.written[0].tensors["model.embed_tokens.weight"].shape == (len(kept), columns)
    assert peak < 30 << 20  # 4 MiB that are written, the 12 that they are picked from, copies, and the ids


def zeros(shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    return np.zeros((stop - start, *shape), np.float32)


def test_without_text_there_is_nothing_to_keep(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.format(size=0))
    with pytest.raises(InputError, match=r"vocabulary keeps what your text uses, and there is no text"):
        export(DEMO_DIRECTORY, out=tmp_path / "out", recipe=tmp_path / "recipe.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_a_script_without_tokens_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = prune(save("llama", tmp_path / "model"), tmp_path / "out", "Всё хорошо, что хорошо кончается. " * 3)
    assert "cyrillic letters" in caplog.text
    assert "a character costs 2.0 tokens" in caplog.text
    assert any("cyrillic" in warning for warning in task.report["warnings"])


RECIPE = """
prune = ["vocabulary"]
[weights]
bits = 32
[options.vocabulary]
size = {size}
"""


@cache
def shakespeare() -> str:
    """What the demo model writes by itself, and more of the kind."""
    lines = [
        "ROMEO:\nO, what a thing is this, that I should speak?\n",
        "First Citizen:\nWe are the people of the city.\n",
    ]
    return "".join(f"{line}{number}\n" for number in range(120) for line in lines)


@pytest.mark.parametrize(("name", "size", "first"), [("demo", 640, "ROMEO:"), ("stories260k", 384, "Once upon a time")])
def test_greedy_text_stays_in_both_runtimes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, size: int, first: str
) -> None:
    model = DEMO_DIRECTORY if name == "demo" else DATA / "models" / name
    if not model.exists():
        pytest.skip(f"{model} is not there; set EDGEPRESS_DATA to the data folder")
    export(model, out=tmp_path / "whole", recipe="fp32", context_length=128)
    tokenizer = read_tokenizer(tmp_path / "whole")
    prompt = tokenizer.encode(first)
    whole = greedy_tokens(tmp_path / "whole", np.array(prompt), 40)
    # The text that the whole model writes is in the corpus, so its tokens are kept; fewer rows cannot make others win.
    text = tmp_path / "corpus.jsonl"
    documents = [tokenizer.decode(whole), *shakespeare().split("First")]
    text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    (tmp_path / "small.toml").write_text(RECIPE.format(size=size))
    export(model, out=tmp_path / "small", recipe=tmp_path / "small.toml", calibration=[text], context_length=128)

    new = read_tokenizer(tmp_path / "small")
    assert new.vocabulary <= size
    described = json.loads((tmp_path / "small" / "genai_config.json").read_text())
    assert described["model"]["vocab_size"] == new.vocabulary
    start = np.array(new.encode(first))
    assert len(start) == len(prompt)
    found = greedy_tokens(tmp_path / "small", start, 40)
    texts = [new.library.id_to_token(token) for token in found]
    assert texts == [tokenizer.library.id_to_token(token) for token in whole]
    assert main(["run", str(tmp_path / "small"), "--prompt", first, "--max-tokens", "40", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip("\n") == tokenizer.decode(whole)[len(tokenizer.decode(prompt)) :].strip("\n")

    genai = pytest.importorskip("onnxruntime_genai")
    ids = genai_tokens(tmp_path / "small", start, 40)
    assert ids == found[: len(ids)]
    assert len(ids) == len(found)
    library = genai.Tokenizer(genai.Model(str(tmp_path / "small")))
    for line in ("ROMEO:\nThe people", "Voilà 日本 🙂", "the question"):
        plain = new.encode_plain(line)
        assert library.encode(line).tolist()[-len(plain) :] == plain


def test_a_smaller_vocabulary_keeps_tokens_that_only_the_settings_name(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    tokens = Tokenizer.from_file(str(model / "tokenizer.json"))
    entries = tokens.get_vocab_size(with_added_tokens=True)
    path = model / "tokenizer_config.json"
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    table = {str(entries): {"content": "<|chat|>", **flags}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": table}))
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"To be, or not to be: {n} " * 40}) + "\n" for n in range(200)))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(size=0))
    export(model, out=tmp_path / "bundle", recipe=tmp_path / "recipe.toml", calibration=[text])
    shipped = read_tokenizer(tmp_path / "bundle")
    [token] = shipped.encode_plain("<|chat|>")
    assert token < entries
    assert shipped.vocabulary < entries
