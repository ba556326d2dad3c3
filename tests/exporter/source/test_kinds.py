"""What is no checkpoint of a text generator is recognised by its content, and answered with what to do."""

import io
import json
import pickle  # noqa: TID251 - writes what must never be read
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.decide.encoder_decoder import is_encoder_decoder
from edgepress.exporter.doors.kinds import find_door
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.source.kinds import _TYPES, what_it_is

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 123456\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save("llama", tmp_path / "model")


def refusal(model: Path) -> str:
    """What plan and export say of it as a text generator, which is the same; a door takes it as what else it is."""
    with pytest.raises(InputError) as planned:
        decide(str(model), target="arm64-cpu", recipe="int4")
    if find_door(str(model)) is not None or is_encoder_decoder(str(model)):
        return str(planned.value)
    with pytest.raises(InputError) as exported:
        export(model, out=model.parent / "bundle")
    assert str(planned.value) == str(exported.value)
    assert not (model.parent / "bundle").exists()
    assert len(str(planned.value).splitlines()) == 1
    return str(planned.value)


def edit(model: Path, **values: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def only(model: Path, *names: str) -> None:
    for path in model.iterdir():
        if path.name not in names:
            path.unlink()


def saved_by_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"")
    return buffer.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "GGUF": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "GGUF file"),
    "GGML": (b"tjgg" + bytes(16), "a GGUF file of llama.cpp"),
    "ONNX": (
        b"\x08\x0a\x12\x07pytorch\x3a\x00",
        "an ONNX model; name the file itself, which has to end in .onnx: `edgepress export`",
    ),
    "torch": (saved_by_torch(), "pickled weights run code"),
    "old torch": (pickle.dumps({}, 2), "pickled weights run code"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(8), "Keras or TensorFlow"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
    "ExecuTorch": (b"\x1c\0\0\0ET12", "ExecuTorch"),
    "git-lfs": (POINTER, "a git-lfs pointer, not the file of 123,456 bytes"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_known_by_its_content(kind: str, tmp_path: Path) -> None:
    content, says = FILES[kind]
    (tmp_path / "weights").write_bytes(content)
    assert says in refusal(tmp_path / "weights")


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("with_config", [False, True])
def test_a_folder_with_nothing_else_is_known_by_its_files(kind: str, with_config: bool, model: Path) -> None:
    only(model, *(["config.json"] if with_config else []))
    content, says = FILES[kind]
    (model / "weights").write_bytes(content)
    message = refusal(model)
    assert says in message
    assert "weights" in message


@pytest.mark.parametrize(("name", "content"), [("a.zip", zipped("config.json")), ("a.tgz", b"\x1f\x8b" + bytes(16))])
def test_an_archive_is_to_be_unpacked(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert "an archive; unpack it" in refusal(tmp_path / name)


def test_a_safetensors_file_is_in_the_folder_to_name(model: Path) -> None:
    assert "name the directory that holds it" in refusal(model / "model.safetensors")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_a_pointer_of_git_lfs_is_named_in_every_file(name: str, model: Path) -> None:
    (model / name).write_bytes(POINTER)
    message = refusal(model)
    assert f"{name} is a git-lfs pointer" in message
    assert "git lfs pull" in message


def test_a_pointer_of_git_lfs_is_no_calibration_text(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(POINTER)
    with pytest.raises(InputError, match="git-lfs pointer"):
        export(model, out=tmp_path / "bundle", recipe="int4-fast", calibration=[tmp_path / "text.txt"])


def add_adapter(folder: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.q_proj.lora_A.weight": torch.zeros(8, 64)}, folder / "adapter_model.safetensors")


VERBS: dict[str, Callable[[Path], list[str]]] = {
    "export": lambda model: ["export", str(model), "--out", str(model.parent / "out")],
    "plan": lambda model: ["plan", str(model)],
    "eval": lambda model: [
        *("eval", str(model.parent / "bundle"), "--text", str(model.parent / "text.txt")),
        *("--reference", str(model)),
    ],
    "blame": lambda model: ["blame", str(model.parent / "bundle"), "--model", str(model)],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("base", [True, False])
def test_an_adapter_is_never_passed_over(
    verb: str, base: bool, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(model, out=model.parent / "bundle")
    (model.parent / "text.txt").write_text("To be, or not to be")
    if not base:
        only(model)
    add_adapter(model)
    assert main(VERBS[verb](model)) == 2
    said = capsys.readouterr().err
    assert "--adapter" in said
    assert ("beside its base" if base else "is an adapter of org/base, not a model") in said


@pytest.mark.parametrize("name", ["modules.json", "config_sentence_transformers.json", "1_Pooling"])
@pytest.mark.parametrize("whole", [True, False])
def test_an_embedding_model_is_no_text_generator(name: str, whole: bool, model: Path) -> None:
    if not whole:
        only(model)
    if name == "1_Pooling":
        (model / name).mkdir()
        (model / name / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    else:
        (model / name).write_text("[]")
    message = refusal(model)
    assert "an embedding model or reranker" in message
    assert name in message


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("LlamaModel", "without a head for next tokens, as embedding models are (LlamaModel)"),
        ("LlamaForSequenceClassification", "a classifier, reward model or reranker (LlamaForSequenceClassification)"),
        ("LlamaForTokenClassification", "a classifier of tokens"),
        ("LlamaForRewardModel", "reward model"),
        ("LlamaBidirectionalModel", "embedding models"),
    ],
)
def test_another_head_is_no_text_generator(architecture: str, says: str, model: Path) -> None:
    edit(model, architectures=[architecture])
    message = refusal(model)
    assert says in message
    assert 'ForCausalLM"] in config.json' in message


def test_a_classification_head_without_its_name_is_a_tensor_too_many(model: Path) -> None:
    tensors = load_file(model / "model.safetensors") | {"score.weight": torch.zeros(2, 64)}
    save_file(tensors, model / "model.safetensors")
    assert "score.weight" in refusal(model)


QUANTIZED: dict[str, tuple[dict[str, object], str]] = {
    "hqq": ({"quantization_config": {"quant_method": "hqq", "bits": 4}}, "quantized by 'hqq'"),
    "modelopt": ({"quantization_config": {"quant_algo": "NVFP4"}}, "quantized by 'NVFP4'"),
    "nameless": ({"quantization_config": {"load_in_4bit": True}}, "it does not say how (no quant_method)"),
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_quantized_checkpoint_is_named_by_its_method(kind: str, model: Path) -> None:
    values, says = QUANTIZED[kind]
    edit(model, **values)
    message = refusal(model)
    assert says in message
    assert "known: awq, " in message
    assert ", gptq, " in message
    assert "Export the original" in message


@pytest.mark.parametrize("name", ["qweight", "weight_packed", "biases", "absmax", "SCB"])
def test_a_quantized_checkpoint_is_known_by_its_tensors(name: str, model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    if name == "qweight":
        del tensors["model.layers.0.mlp.up_proj.weight"]
    tensors[f"model.layers.0.mlp.up_proj.{name}"] = torch.zeros(8, 8, dtype=torch.int32)
    save_file(tensors, model / "model.safetensors")
    assert "as quantized checkpoints do" in refusal(model)


OTHERS: dict[str, tuple[dict[str, object], str]] = {
    "t5": ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "sequence to sequence"),
    "bert": ({"architectures": ["BertForMaskedLM"]}, "an encoder (BertForMaskedLM)"),
    "roberta": ({}, "an encoder"),
    "whisper": ({"architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True}, "a speech model"),
    "vit": ({"architectures": ["ViTForImageClassification"]}, "a vision model"),
    "gemma3": (
        {
            "architectures": ["Gemma3Model"],
            "vision_config": {"a": 1},
            "text_config": {"model_type": "gemma3_text"},
        },
        "a vision-language model (Gemma3Model)",
    ),
    "someone_new": ({"architectures": ["NewForConditionalGeneration"], "vision_config": {"a": 1}}, "vision-language"),
    "jetmoe": ({"architectures": ["JetMoeForCausalLM"], "num_local_experts": 8}, "with a mixture of experts"),
    "rwkv": ({"architectures": ["RwkvForCausalLM"], "state_size": 16}, "with states instead of attention"),
    "no_such": ({"architectures": ["NoSuchForCausalLM"]}, "a text generator of a family that there is no file for"),
    "nothing": ({}, "does not say what kind of model it is"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_an_unknown_architecture_says_what_it_is(kind: str, model: Path) -> None:
    values, says = OTHERS[kind]
    edit(model, **{"architectures": None, **values}, model_type=kind)
    assert says in refusal(model)


def test_a_vision_language_model_says_that_its_language_model_can_be_exported() -> None:
    said = what_it_is({"model_type": "gemma3", **OTHERS["gemma3"][0]})
    assert "its language model (gemma3_text) can be exported when it is saved, with its head" in said


def test_a_config_without_a_type_says_what_it_is() -> None:
    with pytest.raises(InputError, match="diffusion pipeline"):
        describe({"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30"}, [])


@pytest.mark.parametrize("kind", _TYPES)
def test_every_type_that_is_listed_is_one_of_transformers(kind: str) -> None:
    assert set(_TYPES[kind].split()) <= set(transformers.CONFIG_MAPPING.keys())


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"model_index.json": "{}"}, "a diffusion pipeline"),
        ({"params.json": "{}", "consolidated.safetensors": ""}, "the publisher's own form"),
        ({"manifest.json": "{}", "genai_config.json": "{}"}, "a bundle that was exported already"),
        ({"snapshots/abc/config.json": "{}", "blobs/x": ""}, "name the snapshot in it"),
        ({"inner/config.json": "{}"}, "inner in it has one"),
    ],
)
def test_a_folder_of_another_tool_is_known(files: dict[str, str], says: str, tmp_path: Path) -> None:
    for name, content in files.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert says in refusal(tmp_path / "model")
