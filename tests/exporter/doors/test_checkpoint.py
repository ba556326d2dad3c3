"""Checkpoints of transformers for any task: what the class computes is what its graph computes."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.doors.heads import Head, find_head, head_names, head_of
from edgepress.exporter.doors.inputs import main_input
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.pooling import _pooled
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.doors.ways.checkpoint import _kept, open_checkpoint
from edgepress.sessions import open_on_cpu
from tests.transformers_models import model_of, saved

ELSEWHERE = {  # tasks of optimum's TasksManager that no head has, and why
    "text-generation": "language models have a path of their own",
    "text2text-generation": "an encoder and a decoder",
    "image-to-text": "an encoder and a decoder, or a language model that sees",
    "image-text-to-text": "a language model that sees",
    "mask-generation": "takes points and boxes as prompts",
    "text-to-audio": "makes sound a step at a time",
    "reinforcement-learning": "decision transformers, which take returns and actions",
}


def with_pooling(folder: Path) -> Path:
    """A sentence-transformers folder: mean and cls pooling, a Dense module and normalized vectors."""
    import torch
    from safetensors.torch import save_file

    saved("BertModel", folder)
    modules = ["Transformer", "Pooling", "Dense", "Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(modules, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    for path in paths[1:3]:
        (folder / path).mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    dense = {
        "in_features": 64,
        "out_features": 12,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    generator = torch.Generator().manual_seed(3)
    weights = {
        "linear.weight": torch.randn(12, 64, generator=generator),
        "linear.bias": torch.randn(12, generator=generator),
    }
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Traced]:
    folder = with_pooling(tmp_path_factory.mktemp("sentences") / "model")
    return folder, open_checkpoint(str(folder), Options(), tmp_path_factory.mktemp("graph"))


def test_an_embedding_is_pooled_projected_and_normalized_in_the_graph(sentences: tuple[Path, Traced]) -> None:
    import torch
    from safetensors.numpy import load_file

    folder, traced = sentences
    model, session = model_of("BertModel"), open_on_cpu(traced.file)
    dense = load_file(folder / "2_Dense" / "model.safetensors")
    shapes = set()
    for feed in islice(traced.examples(5), 4):
        with torch.no_grad():
            tensors = {name: torch.from_numpy(np.array(array)) for name, array in feed.items()}
            hidden = model(**tensors).last_hidden_state.double().numpy()  # (batch, sequence, 32)
        mask = feed["attention_mask"][..., None].astype(np.float64)
        pooled = np.concatenate([hidden[:, 0], (hidden * mask).sum(1) / mask.sum(1)], 1)
        projected = np.tanh(pooled @ dense["linear.weight"].T + dense["linear.bias"])
        expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
        (found,) = session.run(["sentence_embedding"], dict(feed))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        shapes.add(feed["input_ids"].shape)
    assert len(shapes) == 4


def test_the_task_and_what_it_was_made_of_are_said(sentences: tuple[Path, Traced]) -> None:
    _, traced = sentences
    assert traced.task.name == "sentence-similarity"
    assert [edge.name for edge in traced.task.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert traced.task.outputs[0].shape == ("batch", 12)
    assert "read as BertModel for sentence-similarity, as modules.json is that of an embedding model" in traced.notes
    assert {*traced.source} == {"config.json", "model.safetensors"}


def test_weights_have_the_names_of_the_checkpoint(sentences: tuple[Path, Traced]) -> None:
    import onnx
    from safetensors import safe_open

    folder, traced = sentences
    names = {tensor.name for tensor in onnx.load(traced.file, load_external_data=False).graph.initializer}
    with safe_open(folder / "model.safetensors", "numpy") as file:
        matrices = {name for name in file.keys() if name.endswith("weight") and "pooler" not in name}  # noqa: SIM118
    assert matrices <= names


@pytest.mark.parametrize("way", ["cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken"])
def test_ways_of_pooling(way: str) -> None:
    import torch

    generator = np.random.default_rng(7)
    values = generator.standard_normal((5, 6, 3)) - 2  # so that zeros of padding would be the largest
    lengths = np.array([6, 1, 3, 5, 2])
    mask = (np.arange(6) < lengths[:, None]).astype(np.int64)

    def of_one(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        places = np.arange(1, len(vectors) + 1)[:, None]
        return {
            "cls": vectors[0],
            "max": vectors.max(0),
            "mean": vectors.mean(0),
            "mean_sqrt_len": vectors.sum(0) / np.sqrt(len(vectors)),
            "weightedmean": (vectors * places).sum(0) / places.sum(),
            "lasttoken": vectors[-1],
        }[way]

    expected = np.stack([of_one(one[:length]) for one, length in zip(values, lengths, strict=True)])
    marked = torch.from_numpy(mask)[..., None].double()
    np.testing.assert_allclose(_pooled(way, torch.from_numpy(values), marked).numpy(), expected, rtol=1e-12)


def test_a_vision_model_with_norms_in_its_convolutions(tmp_path: Path) -> None:
    import onnx

    (tmp_path / "work").mkdir()
    traced = open_checkpoint(
        str(saved("ResNetForImageClassification", tmp_path / "model")), Options(), tmp_path / "work"
    )
    assert traced.task.name == "image-classification"
    assert traced.task.inputs[0].shape[0] == "batch"
    operators = {node.op_type for node in onnx.load(traced.file, load_external_data=False).graph.node}
    assert "Conv" in operators
    assert "BatchNormalization" not in operators


@pytest.fixture(scope="module")
def without_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("BertModel", tmp_path_factory.mktemp("headless") / "model")


def test_a_head_that_was_never_trained_is_refused(without_head: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no classifier.bias and 1 more, which BertForSequenceClassification"):
        open_checkpoint(str(without_head), Options(task="text-classification"), tmp_path)


def test_tasks_that_are_not_known(without_head: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no task 'text-clasification'; did you mean text-classification"):
        open_checkpoint(str(without_head), Options(task="text-clasification"), tmp_path)
    with pytest.raises(InputError, match=r"has no class of the type bert for object-detection"):
        open_checkpoint(str(without_head), Options(task="object-detection"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["BertForSomething"]}, "no task is known for BertForSomething of the type bert; name one"),
        ({"model_type": "own", "auto_map": {"AutoModel": "own.Model"}}, r"Python code of its own \(auto_map\)"),
    ],
)
def test_configs_that_say_too_little(without_head: Path, changes: dict[str, object], said: str, tmp_path: Path) -> None:
    config = {**json.loads((without_head / "config.json").read_text()), **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(without_head / "model.safetensors")
    task = None if "auto_map" not in changes else "feature-extraction"
    with pytest.raises(InputError, match=said):
        open_checkpoint(str(tmp_path), Options(task=task), tmp_path)


def test_pickled_weights_are_not_read(without_head: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((without_head / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(InputError, match=r"has no model.safetensors; weights in other formats run code"):
        open_checkpoint(str(tmp_path), Options(), tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"anything")  # as repositories of the hub have it
    with pytest.raises(
        InputError, match=r"it has onnx.model.onnx: `edgepress export .*model.onnx --task \S+` takes that"
    ):
        open_checkpoint(str(tmp_path), Options(), tmp_path)


def test_every_task_of_optimum_has_a_head_or_a_reason() -> None:
    pytest.importorskip("optimum.exporters.tasks", reason="optimum is in edgepress[test]")
    from optimum.exporters.tasks import TasksManager

    loaders = TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS
    for task, named in loaders.items():
        if task in ELSEWHERE:
            continue
        names = {named} if isinstance(named, str) else {*named}
        heads: list[Head] = [find_head(task)] if task in _named() else []
        covered = {loader for head in heads for loader in head.loaders}
        assert names & covered, task


def _named() -> set[str]:
    heads = [find_head(name) for name in head_names()]
    return {name for head in heads for name in (head.name, *head.synonyms)}


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "clip", "architectures": ["CLIPModel"]}, "zero-shot-image-classification"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "feature-extraction"),
        ({"model_type": "t5", "architectures": ["T5EncoderModel"]}, "feature-extraction"),
        ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}, "automatic-speech-recognition"),
        ({"model_type": "beit", "architectures": ["BeitForSemanticSegmentation"]}, "semantic-segmentation"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, None),
        ({"model_type": "bert"}, None),
    ],
)
def test_which_task_a_class_has(config: dict[str, object], task: str | None) -> None:
    head = head_of(config)
    assert (None if head is None else head.name) == task


def test_every_class_of_a_head_is_one_of_transformers() -> None:
    for name in head_names():
        head = find_head(name)
        assert head.name == name
        assert all(hasattr(transformers, loader) for loader in head.loaders), name


def test_what_a_class_gives_under_another_name_is_the_tasks_only_output() -> None:
    """PPLCNet's classifier has its logits as last_hidden_state."""
    import torch

    tensor = torch.ones(1, 2)
    assert _kept(find_head("image-classification"), "Some")({"last_hidden_state": tensor}) == {"logits": tensor}
    with pytest.raises(InputError, match="gives last_hidden_state, and object-detection is after logits, pred_boxes"):
        _kept(find_head("object-detection"), "Some")({"last_hidden_state": tensor})


def test_a_main_input_that_has_a_name_for_anything() -> None:
    """Perceiver's classes take text, or images, as inputs."""

    class Images:
        main_input_name = "inputs"

        def forward(self, inputs: object = None, pixel_values: object = None) -> None: ...

    class Texts(Images):
        def forward(self, inputs: object = None, input_ids: object = None) -> None: ...

    class Others(Images):
        main_input_name = "pixel_values_videos"

    assert [main_input(one()) for one in (Images, Texts, Others)] == [
        "pixel_values",
        "input_ids",
        "pixel_values_videos",
    ]
