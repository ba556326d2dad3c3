"""What a path is that is no checkpoint of a text generator, by its content, and what to do with it.

Files are known by their first bytes, folders by the files that only their kind has, models by their config. Nothing is
unpickled or unpacked.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from edgepress.disk import file_kinds
from edgepress.errors import InputError
from edgepress.exporter.source.towers import text_config
from edgepress.schema import read_object

_LISTED = 1000  # entries of a folder that are looked at
_TO_EXPORT = "edgepress exports a checkpoint in Hugging Face form (config.json and model.safetensors)"

_OTHER_FORMAT = f"{_TO_EXPORT}: name the one that it was converted from"
_PICKLED = (
    "pickled weights run code when they are read",
    "convert them with safetensors (model.save_pretrained does, in a place that you trust)",
)
_ARCHIVED = ("an archive", "unpack it, and name the directory with config.json")
_REMEDIES = {  # of the kinds that have one of their own: what it is, and what to do with it
    file_kinds.GGUF: (
        file_kinds.GGUF,
        "name the file itself, or the original that it was converted from",
    ),
    file_kinds.ONNX: (
        file_kinds.ONNX,
        "name the file itself, which has to end in .onnx: `edgepress export` and `plan` take it, whoever wrote it",
    ),
    file_kinds.PICKLE: _PICKLED,
    file_kinds.ARCHIVE: _ARCHIVED,
}
_PICKLE_NAMES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_ADAPTERS = re.compile(r"adapter_config\.json|adapter_model\.(safetensors|bin)|adapters?\.(safetensors|npz)")
_POOLING = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling")
_QUANTIZED_NAMES = re.compile(
    r".*\.(qweight|qzeros|g_idx|weight_packed|weight_scale(_inv)?|absmax|quant_map|SCB|biases)|.*_(blocks|scales)"
)
_ADAPTED_NAMES = re.compile(r".*\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|base_layer|modules_to_save)\..*")

# Files that say what a folder without config.json is; small ones.
FOLDER_MARKS = ("adapter_config.json", "model_index.json", "params.json", *_POOLING[:3])
_SUFFIXES = {  # what files are by their names, where these say more than the first bytes, or are all that is known
    **dict.fromkeys(_PICKLE_NAMES, file_kinds.PICKLE),
    ".onnx": file_kinds.ONNX,
    ".msgpack": "weights of Flax",
    ".gguf": file_kinds.GGUF,
    ".h5": file_kinds.HDF5,
    ".tflite": file_kinds.TFLITE,
}

_TAKES_GENERATORS = (
    "edgepress exports text generators (…ForCausalLM) and classes with a task (docs/models.md); of any other, name a "
    "function that returns it with example inputs (package.module:function), or its ONNX file"
)
_SEQUENCES, _SPEECH = "encoder and decoder (sequence to sequence)", "speech model"
# What the ends of transformers' class names say, longest first where one ends another.
_ENDINGS: tuple[tuple[str, str], ...] = (
    ("LMHeadModel", "text generator"),
    ("DoubleHeadsModel", "text generator with a second head"),
    ("ForCausalLM", "text generator"),
    ("ForMaskedLM", "encoder"),
    ("ForPreTraining", "encoder"),
    ("ForSequenceClassification", "classifier, reward model or reranker"),
    ("ForTokenClassification", "classifier of tokens"),
    ("ForQuestionAnswering", "question answerer"),
    ("ForMultipleChoice", "classifier"),
    ("RewardModel", "reward model"),
    ("ForSpeechSeq2Seq", _SPEECH),
    ("ForCTC", _SPEECH),
    ("ForAudioClassification", _SPEECH),
    ("ForTextToSpeech", _SPEECH),
    ("ForTextToWaveform", _SPEECH),
    ("ForImageClassification", "vision model"),
    ("ForObjectDetection", "vision model"),
    ("ForSemanticSegmentation", "vision model"),
    ("ForImageTextToText", "vision-language model"),
    ("EncoderModel", "encoder"),
    ("Model", "model without a head for next tokens, as embedding models are"),
)
_TYPES: dict[str, str] = {  # by model_type, for configs that name no class
    "encoder": (
        "albert bert camembert convbert deberta deberta-v2 distilbert electra ernie eurobert ibert layoutlm longformer "
        "mobilebert modernbert mpnet nomic_bert roberta roformer squeezebert xlm xlm-roberta xlm-roberta-xl"
    ),
    _SEQUENCES: (
        "bart bigbird_pegasus blenderbot blenderbot-small fsmt led longt5 m2m_100 marian mbart mt5 mvp nllb-moe "
        "pegasus pegasus_x plbart prophetnet switch_transformers t5 t5gemma umt5"
    ),
    _SPEECH: (
        "bark clap dia granite_speech hubert kyutai_speech_to_text moonshine musicgen parakeet_ctc seamless_m4t "
        "sew speech_to_text speecht5 unispeech vits voxtral wav2vec2 wav2vec2-bert wavlm whisper"
    ),
    "vision-language model": (
        "align aya_vision blip blip-2 chameleon clip cohere2_vision emu3 florence2 fuyu gemma3 gemma3n gemma4 git "
        "glm4v got_ocr2 idefics idefics2 idefics3 instructblip internvl janus kosmos-2 lfm2_vl llama4 llava llava_next "
        "llava_onevision mistral3 mllama paligemma perception_lm phi4_multimodal pix2struct pixtral qwen2_5_omni "
        "qwen2_5_vl qwen2_vl qwen3_5 qwen3_vl qwen3_vl_moe siglip siglip2 smolvlm video_llava vipllava "
        "vision-encoder-decoder"
    ),
    "vision model": (
        "beit convnext convnextv2 deit depth_anything detr dinov2 dpt efficientnet mask2former mobilenet_v1 "
        "mobilenet_v2 mobilevit resnet rt_detr sam segformer swin vit yolos"
    ),
}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_STATES = ("state_size", "mamba_d_state", "ssm_cfg", "conv_kernel", "linear_conv_kernel_dim", "conv_L_cache", "d_state")


def refuse_file(path: Path) -> InputError:
    """The error for a file where a directory is asked for."""
    found = _file_kind(path)
    if found is None:
        return InputError(f"{path} is a file; name the directory that holds it")
    return InputError(f"{path}: {found[0]}; {found[1]}")


def refuse_folder(directory: Path) -> InputError:
    """The error for a directory without config.json."""
    names = _names(directory)
    if any(_ADAPTERS.fullmatch(name) for name in names):
        return _adapter_alone(directory)
    if names & {*_POOLING}:
        return _pooling(directory, min(names & {*_POOLING}))
    if (what := _known_folder(directory, names)) is not None:
        return InputError(f"{directory} is {what}")
    if (found := _only_kind(directory, names)) is not None:
        return InputError(f"{directory} has no config.json, only {found}")
    inside = next((name for name in sorted(names) if (directory / name / "config.json").is_file()), "")
    if inside:
        return InputError(f"{directory} has no config.json, and {inside} in it has one; name {directory / inside}")
    return InputError(f"{directory} has no config.json; copy it from where the checkpoint came from")


def _known_folder(directory: Path, names: Collection[str]) -> str | None:
    """What a directory is that another tool wrote, and what to do with it."""
    if {"manifest.json", "genai_config.json"} <= {*names}:
        return "a bundle that was exported already; name the checkpoint that it was made from"
    if {"blobs", "snapshots"} <= {*names}:
        snapshots = sorted(str(one) for one in (directory / "snapshots").iterdir() if (one / "config.json").is_file())
        inside = snapshots[0] if snapshots else f"{directory / 'snapshots'}/…, where none has a config.json"
        return f"a repository of the hub's cache; name the snapshot in it: {inside}"
    if "model_index.json" in names:
        return f"a diffusion pipeline (model_index.json), which makes images or sound; {_TAKES_GENERATORS}"
    if "params.json" in names or any(name.startswith("consolidated.") for name in names):
        return (
            f"in the publisher's own form (params.json, consolidated.*), and {_TO_EXPORT}: download that form, or "
            "convert it with transformers' convert_…_weights_to_hf.py"
        )
    return None


def refuse_without_weights(directory: Path, wanted: str) -> InputError:
    """The error for a directory with a config and none of the files ``wanted``."""
    names = _names(directory)
    if (found := _only_kind(directory, names)) is not None:
        return InputError(f"{directory} has no {wanted.partition(' ')[0]}, only {found}")
    others = sorted(name for name in names if name.endswith(".safetensors"))
    known = f" (it has {', '.join(others[:3])})" if others else ""
    return InputError(f"{directory} has no {wanted}{known}; name a checkpoint in Hugging Face form")


def refuse_names(model: str, names: Collection[str], wanted: str) -> InputError:
    """The error for a repository that has no file ``wanted``, by the names of those that it has."""
    for name in sorted(names, key=_model_first):
        kind = _SUFFIXES.get(Path(name).suffix.lower())
        if kind is not None:
            what, remedy = _REMEDIES.get(kind, (kind, _OTHER_FORMAT))
            return InputError(f"{model} has no {wanted}, only {name}: {what}; {remedy}")
    inside = next((name for name in sorted(names) if name.endswith(f"/{wanted}")), "")
    at = f" (but {inside}: download that folder, and name it)" if inside else ""
    return InputError(f"{model} has no {wanted}{at}; name a checkpoint in Hugging Face form")


def refuse_other_kinds(directory: Path, config: Mapping[str, object], names: Collection[str] | None = None) -> None:
    """Refuse what would be exported as a text generator and is none, or only a part of the model.

    ``names`` are the paths in the folder, or in the repository that it is made of; those on disk when None.

    Raises:
        InputError: an adapter lies beside its base, or the model has another task.

    """
    found = _names(directory) if names is None else {name.split("/")[0] for name in names}
    adapters = sorted(name for name in found if _ADAPTERS.fullmatch(name))
    if adapters:
        raise InputError(
            f"{directory} holds an adapter ({', '.join(adapters)}) beside its base model, and an export would leave it "
            "out. To have it in the bundle, move the adapter's files into a folder of their own and export the base "
            "with `--adapter FOLDER`; to export the base alone, name a folder without these files"
        )
    pooling = found & {*_POOLING}
    if pooling:
        raise _pooling(directory, min(pooling))
    _refuse_other_task(directory, text_config(config))


def refuse_odd_tensors(directory: Path, names: Collection[str]) -> None:
    """Raise InputError when names of tensors are those that quantizers or adapters write."""
    adapter = next((name for name in names if _ADAPTED_NAMES.fullmatch(name)), None)
    if adapter is not None:
        raise InputError(
            f"{directory} holds {adapter}, of an adapter that is not merged: load it with peft and call "
            "merge_and_unload().save_pretrained(FOLDER), then export that"
        )
    found = next((name for name in names if _QUANTIZED_NAMES.fullmatch(name)), None)
    if found is not None:
        raise InputError(
            f"{directory} holds {found}, as quantized checkpoints do, and its config.json does not say how they "
            "are quantized (quantization_config), or says otherwise: copy the config that belongs to these weights, or "
            "export the original checkpoint"
        )


def what_it_is(config: Mapping[str, object]) -> str:
    """What kind of model a config of no known family describes, and what can be done: the end of a sentence."""
    kind, why = _kind(config)
    text = _mapping(config.get("text_config")).get("model_type")
    language = (
        f"; its language model ({text}) can be exported when it is saved, with its head, as a checkpoint of its own"
        if isinstance(text, str)
        else ""
    )
    if kind == "text generator":
        parts = [
            what
            for keys, what in ((_EXPERTS, "with a mixture of experts"), (_STATES, "with states instead of attention"))
            if any(config.get(key) for key in keys)
        ]
        with_parts = f" {' and '.join(parts)}" if parts else ""
        return f"it is a text generator{with_parts} of a family that there is no file for"
    if kind is None:
        return f"its config does not say what kind of model it is; {_TAKES_GENERATORS}"
    if kind == _SEQUENCES or (kind == _SPEECH and config.get("is_encoder_decoder") is True):
        return f"it is {_article(kind)} {kind}{why} of a family that there is no file for{language}"
    return f"it is {_article(kind)} {kind}{why}, and {_TAKES_GENERATORS}{language}"


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeiou" else "a"


def _kind(config: Mapping[str, object]) -> tuple[str | None, str]:
    """The kind, None when the config does not say, and the class that shows it in brackets."""
    if "_diffusers_version" in config or "_class_name" in config:
        return "part of a diffusion pipeline", ""
    name = _class_name(config)
    shown = f" ({name})" if name else ""
    ending = next((kind for end, kind in _ENDINGS if name.endswith(end)), None)
    listed = next((kind for kind, types in _TYPES.items() if config.get("model_type") in types.split()), None)
    if config.get("vision_config") is not None or config.get("vision_tower") is not None:
        found: str | None = "vision-language model"
    elif config.get("audio_config") is not None or config.get("audio_encoder") is not None:
        found = _SPEECH
    elif ending is not None and not name.endswith("Model"):
        found = ending
    elif listed is None and (config.get("is_encoder_decoder") is True or name.endswith("ForConditionalGeneration")):
        found = _SEQUENCES
    else:
        found = listed or ending
    return found, shown


def _class_name(config: Mapping[str, object]) -> str:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def _refuse_other_task(directory: Path, config: Mapping[str, object]) -> None:
    """Refuse a model that does not generate text; the class that its config names says so, or its type."""
    kind, _ = _kind(config)
    if kind is None or kind.startswith("text generator"):
        return
    name = _class_name(config)
    stem = re.sub(r"(For[A-Z]\w*|RewardModel|EncoderModel|TextModel|Model)$", "", name)
    is_part = any(config.get(key) is not None for key in ("text_config", "vision_config", "audio_config"))
    renamed = (
        f'. If it is a text generator that was saved under this name, set architectures to ["{stem}ForCausalLM"] in '
        "config.json"
    )
    if is_part or not stem or kind in (_SEQUENCES, _SPEECH):
        renamed = ""
    raise InputError(f"{directory}: {what_it_is(config)}{renamed}")


def _pooling(directory: Path, name: str) -> InputError:
    return InputError(
        f"{directory} is an embedding model or reranker for sentence-transformers ({name}): what it gives are vectors "
        f"or scores, not next tokens, and {_TAKES_GENERATORS}. To export it as a text generator all the same, name a "
        f"folder without {', '.join(_POOLING)}"
    )


def _adapter_alone(directory: Path) -> InputError:
    base: object = None
    if (directory / "adapter_config.json").is_file():
        base = read_object(directory / "adapter_config.json", "copy it again").get("base_model_name_or_path")
    of = f" of {base}" if isinstance(base, str) and base else ""
    return InputError(
        f"{directory} is an adapter{of}, not a model: name the base and give it with `--adapter {directory}`"
    )


def _only_kind(directory: Path, names: Collection[str]) -> str | None:
    """The first file of a kind that is no checkpoint: its name, what it is and what to do."""
    for name in sorted(names, key=_model_first):
        path = directory / name
        if path.is_file() and (found := _file_kind(path)) is not None and found is not _ARCHIVED:
            return f"{name}: {found[0]}; {found[1]}"
    return None


def _model_first(name: str) -> tuple[bool, str]:
    """Order in which files are named: the model before what a training leaves beside it."""
    return not Path(name).stem.startswith("pytorch_model"), name


def _file_kind(path: Path) -> tuple[str, str] | None:
    """What a file is and what to do with it; None for one that tells nothing. A git-lfs pointer is an error."""
    try:
        with path.open("rb") as file:
            head = file.read(file_kinds.HEAD)
    except OSError:
        return None
    kind, suffix = file_kinds.kind_of(path, head), path.suffix.lower()
    if kind == file_kinds.ZIP:
        kind = file_kinds.PICKLE if _holds_pickle(path) else file_kinds.ARCHIVE
    elif suffix in _PICKLE_NAMES:  # names of pickles, which are known by their content, and of much else
        if kind == file_kinds.SAFETENSORS:
            return kind, "rename it to .safetensors"
        if kind is None:
            return f"{path.stat().st_size:,} bytes in no format that is known here", f"copy it again; {_TO_EXPORT}"
    elif kind in {None, file_kinds.ONNX, file_kinds.SAFETENSORS}:  # a few bytes say little, or nothing: names say more
        kind = _SUFFIXES.get(suffix, kind)
    if kind is None or kind == file_kinds.SAFETENSORS:
        return None
    return _REMEDIES.get(kind, (kind, _OTHER_FORMAT))


def _holds_pickle(path: Path) -> bool:
    """Whether a zip archive is what torch.save writes; only its list of names is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _names(directory: Path) -> set[str]:
    def listed() -> Iterator[str]:
        with os.scandir(directory) as entries:
            for _, entry in zip(range(_LISTED), entries, strict=False):
                yield entry.name

    return set(listed())


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
