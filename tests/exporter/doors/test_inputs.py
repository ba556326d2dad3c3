"""Inputs of models whose configs leave out what most have, and of classes with experts."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgepress.errors import InputError
from edgepress.exporter.doors.heads import find_head
from edgepress.exporter.doors.inputs import feeds_of, given_inputs, ways
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.ways.checkpoint import open_checkpoint, recognizes
from edgepress.sessions import open_on_cpu


class Characters(torch.nn.Module):
    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=16))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids


def test_a_config_without_a_vocabulary_takes_characters(tmp_path: Path) -> None:
    inputs = given_inputs(find_head("token-classification"), Characters(), tmp_path)
    tokens = next(feeds_of(inputs)(0))["input_ids"]
    assert tokens.shape == (2, 9)
    assert tokens.min() >= 0
    assert 1000 < tokens.max() < 0x110000


def test_experts_are_computed_as_transformers_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        pad_token_id=0,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.MixtralForSequenceClassification(config).eval()  # computes experts its own way
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "work").mkdir()
    traced = open_checkpoint(str(tmp_path / "model"), Options(), tmp_path / "work")
    tokens = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    (found,) = open_on_cpu(traced.file).run(["logits"], {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_axes_are_fixed_one_after_the_other(tmp_path: Path) -> None:
    inputs = given_inputs(find_head("token-classification"), Characters(), tmp_path)
    tried = [(feeds_of(given), how) for given, how in ways(inputs)]
    shapes = [
        (feeds.shapes["input_ids"], sorted(axis.name for axis in feeds.axes["input_ids"].values()))
        for feeds, _ in tried
    ]
    assert shapes == [
        ((2, 9), ["batch", "sequence"]),
        ((2, 16), ["batch"]),  # all the positions that the model has
        ((1, 9), ["sequence"]),
        ((1, 16), []),
    ]
    assert [how.count("fixes how many") for _, how in tried] == [0, 1, 1, 1]
    assert next(tried[1][0](0))["input_ids"].shape == (2, 16)


def test_code_that_fixes_how_long_texts_are_takes_them_padded_to_one_length(tmp_path: Path) -> None:
    """CANINE's shapes follow from its example's length; what a text says of itself must not depend on the padding."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CanineConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=32,
        num_hash_functions=2, num_hash_buckets=64, local_transformer_stride=8, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CanineForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "work").mkdir()
    traced = open_checkpoint(str(tmp_path / "model"), Options(), tmp_path / "work")
    assert [edge.shape for edge in traced.task.inputs] == [("batch", 32)] * 3
    assert any("texts of 32 tokens, to which shorter ones are padded" in note for note in traced.notes)
    feed = {
        "input_ids": np.zeros((3, 32), np.int64),
        "attention_mask": np.zeros((3, 32), np.int64),
        "token_type_ids": np.zeros((3, 32), np.int64),
    }
    for row, length in enumerate((5, 18, 32)):
        feed["input_ids"][row, :length] = np.arange(100, 100 + length)
        feed["attention_mask"][row, :length] = 1
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()
    (found,) = open_on_cpu(traced.file).run(["logits"], feed)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("model_type", "named", "known"),
    [
        ("detr", "DetrModel", True),  # its decoder has queries, and writes nothing
        ("rt_detr", "RTDetrModel", True),
        ("bert", "BertModel", True),
        ("bart", "BartModel", False),
        ("t5", "T5EncoderModel", True),
    ],
)
def test_which_models_without_a_head_write_sequences(model_type: str, named: str, known: bool, tmp_path: Path) -> None:
    config = {"model_type": model_type, "architectures": [named], "is_encoder_decoder": model_type != "bert"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert recognizes(str(tmp_path)) is known


def test_videos_have_the_frames_that_their_model_takes(tmp_path: Path) -> None:
    class Videos(torch.nn.Module):
        main_input_name = "pixel_values_videos"

        def __init__(self, **config: object) -> None:
            super().__init__()
            self.config = SimpleNamespace(get_text_config=SimpleNamespace, **config)

        def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
            return pixel_values_videos

    head = find_head("video-classification")
    given = given_inputs(head, Videos(frames_per_clip=4, crop_size=32, in_chans=1), tmp_path)
    assert given["pixel_values_videos"].shape == (2, 4, 1, 32, 32)
    with pytest.raises(InputError, match="does not say how many frames a video has"):
        given_inputs(head, Videos(crop_size=32), tmp_path)


@pytest.mark.parametrize(
    ("model_type", "named", "known"),
    [
        ("xlm", "XLMWithLMHeadModel", True),  # for masked words
        ("flaubert", "FlaubertWithLMHeadModel", True),
        ("gpt2", "GPT2LMHeadModel", False),
        ("speecht5", "SpeechT5ForSpeechToText", False),
        ("seamless_m4t", "SeamlessM4TForTextToText", False),
    ],
)
def test_which_heads_generate_text(model_type: str, named: str, known: bool, tmp_path: Path) -> None:
    config = {"model_type": model_type, "architectures": [named]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert recognizes(str(tmp_path)) is known


def test_a_head_for_masked_words_is_exported_as_one(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.XLMConfig(
        vocab_size=40,
        emb_dim=16,
        n_layers=1,
        n_heads=2,
        n_langs=1,
        max_position_embeddings=16,
        pad_index=0,
        eos_index=2,
    )
    torch.manual_seed(0)
    model = transformers.XLMWithLMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "work").mkdir()
    traced = open_checkpoint(str(tmp_path / "model"), Options(), tmp_path / "work")
    assert traced.task.name == "fill-mask"
    tokens = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask)).logits.numpy()
    (found,) = open_on_cpu(traced.file).run(["logits"], {"input_ids": tokens, "attention_mask": mask})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("model_type", "named", "task"),
    [
        ("clip", "CLIPModel", "zero-shot-image-classification"),
        ("siglip", "SiglipModel", "zero-shot-image-classification"),
        ("parakeet_ctc", "ParakeetForCTC", "automatic-speech-recognition"),
    ],
)
def test_features_of_a_class_with_a_task_of_its_own(model_type: str, named: str, task: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [named]}))
    with pytest.raises(InputError, match=f"{named} is for {task}, .* name --task {task}"):
        open_checkpoint(str(tmp_path), Options("feature-extraction"), tmp_path)


def module_of(forward: Callable[..., object], main: object, **config: object) -> torch.nn.Module:
    """A module with a forward and a main input of one's own."""
    module = Characters()
    module.forward, module.main_input_name = forward, main
    module.config = SimpleNamespace(get_text_config=SimpleNamespace, **config)
    return module


def test_what_a_call_must_give_is_given_or_named(tmp_path: Path) -> None:
    head = find_head("feature-extraction")
    videos = module_of(
        lambda input_ids, pixel_values_videos, more=1: (input_ids, pixel_values_videos, more),
        "input_ids",
        num_frames=4,
        image_size=8,
    )
    given = given_inputs(head, videos, tmp_path)
    assert {name: one.shape for name, one in given.items()} == {
        "input_ids": (2, 9),
        "pixel_values_videos": (2, 4, 3, 8, 8),
    }
    queries = module_of(lambda query_embeds, attention_mask=None: (query_embeds, attention_mask), "input_ids")
    with pytest.raises(InputError, match=r"takes query_embeds, of which no example .* package.module:function"):
        given_inputs(head, queries, tmp_path)
    several = module_of(lambda pixels=None, tasks=None: (pixels, tasks), ["pixels", "tasks"])
    with pytest.raises(InputError, match="takes pixels, tasks, of which no example is known"):
        given_inputs(head, several, tmp_path)


def test_images_of_any_shape_are_refused(tmp_path: Path) -> None:
    """SigLIP 2's NaFlex models take patches with the shapes of their images, over which their code goes one by one."""
    module = module_of(lambda pixel_values: pixel_values, "pixel_values", num_patches=256)
    with pytest.raises(InputError, match="takes images of any shape as rows of patches"):
        given_inputs(find_head("image-classification"), module, tmp_path)


@pytest.mark.parametrize(("model_type", "shape"), [("videomae", (2, 4, 3, 32, 32)), ("vit", (2, 3, 32, 32))])
def test_types_that_look_at_videos_have_frames(model_type: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    module = module_of(
        lambda pixel_values: pixel_values, "pixel_values", model_type=model_type, num_frames=4, image_size=32
    )
    given = given_inputs(find_head("image-feature-extraction"), module, tmp_path)
    assert given["pixel_values"].shape == shape


def test_sounds_are_long_enough_for_what_looks_over_frames(tmp_path: Path) -> None:
    """WavLM's speakers: the convolutions over frames leave at least two of the shortest sound, as deviations need."""
    config = SimpleNamespace(
        conv_kernel=(10, 3, 2), conv_stride=(5, 2, 2), tdnn_kernel=(5, 3, 3, 1), tdnn_dilation=(1, 2, 3, 1)
    )
    module = Characters()
    module.config, module.main_input_name = config, "input_values"
    module.forward = lambda input_values: input_values
    config.get_text_config = SimpleNamespace
    axis = given_inputs(find_head("audio-xvector"), module, tmp_path)["input_values"].axes[1]
    plain = given_inputs(find_head("audio-classification"), module, tmp_path)["input_values"].axes[1]
    layers = [(k, s, 1) for k, s in zip(config.conv_kernel, config.conv_stride, strict=True)]
    frames = [(k, 1, d) for k, d in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True)]
    assert _left(plain.least, layers) >= 2
    assert _left(axis.least, layers + frames) >= 2
    assert _left(axis.least // 2 - 1, layers + frames) == 0


def _left(samples: int, layers: list[tuple[int, int, int]]) -> int:
    """How long sound is after convolutions of a kernel, stride and dilation each; 0 where it is too short."""
    values = torch.empty(1, 1, samples, device="meta")
    try:
        for kernel, stride, dilation in layers:
            values = torch.nn.Conv1d(1, 1, kernel, stride, dilation=dilation, device="meta")(values)
    except RuntimeError:
        return 0
    return values.shape[-1]
