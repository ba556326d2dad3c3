"""Sound inputs, as small as they can be: checkpoints of several families and forms, bundles, recipes and texts."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from edgepress.exporter import export
from edgepress.exporter.model.architectures import describe
from tests.gguf_checkpoints import Kind, save_gguf
from tests.two_graphs import make_two_graphs

VOCABULARY = 300
TEXT = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings of fortune. "
SMALL: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.05 * pair for pair in range(8)],
    "long_factor": [1.5 + 0.5 * pair for pair in range(8)],
}
CONFIGS: dict[str, dict[str, object]] = {
    "llama": SMALL | {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": _LLAMA3},
    "phi3": SMALL | {"model_type": "phi3", "original_max_position_embeddings": 48, "rope_scaling": _LONGROPE},
    "gemma3_text": {key: value for key, value in SMALL.items() if key not in ("hidden_act", "tie_word_embeddings")}
    | {
        "model_type": "gemma3_text",
        "head_dim": 32,
        "sliding_window": 16,
        "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "qwen3": SMALL | {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True, "rope_theta": 1e6},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
CALIBRATED = """\
[weights]
bits = 4
block_size = 32
method = "gptq"

[calibration]
tokens = 64
length = 16
"""


def make_bases(folder: Path) -> None:
    """Write everything into ``folder``.

    ``checkpoint-NAME``, ``bundle-NAME``, an ``adapter`` of the llama, ``calibrated.toml`` and ``text.txt``.
    """
    text = folder / "text.txt"
    text.write_text(TEXT * 20, encoding="utf-8")
    recipe = folder / "calibrated.toml"
    recipe.write_text(CALIBRATED, encoding="utf-8")
    for seed, name in enumerate(CONFIGS):
        _write_checkpoint(folder / f"checkpoint-{name}", CONFIGS[name], seed, shards=2 if name == "phi3" else 1)
    _write_packed(folder / "checkpoint-llama", folder / "checkpoint-packed")
    _write_tower(folder / "checkpoint-gemma3_text", folder / "checkpoint-tower")
    (folder / "checkpoint-gguf").mkdir()
    save_gguf(folder / "checkpoint-qwen3", folder / "checkpoint-gguf" / "model.gguf", Kind.Q8_0)
    _write_adapter(folder / "adapter")
    export(folder / "checkpoint-llama", out=folder / "bundle-llama", recipe="int4", threads=1)
    export(folder / "checkpoint-llama", out=folder / "bundle-graphs", recipe="int4", target="x86-cpu", threads=1)
    make_two_graphs(folder / "bundle-graphs")
    export(folder / "checkpoint-phi3", out=folder / "bundle-phi3", recipe=recipe, calibration=[text], threads=1)


def _write_checkpoint(folder: Path, config: dict[str, object], seed: int, *, shards: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for weight in describe(config, ["model.", "transformer."]).weights():
        for part in weight.parts:
            rows = max(part.stop, shapes.get(part.tensor, (0,))[0])
            shape = (rows, *weight.shape[1:])
            shapes[part.tensor] = shape[::-1] if part.transposed else shape
    tensors = {
        name: (generator.normal(len(shape) < 2, 0.1, shape)).astype(np.float32) for name, shape in shapes.items()
    }
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        names = sorted(tensors)
        files = {name: f"model-{1 + index % shards:05}-of-{shards:05}.safetensors" for index, name in enumerate(names)}
        for file in sorted(set(files.values())):
            save_file({name: tensors[name] for name in names if files[name] == file}, folder / file, {"format": "pt"})
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2, 0]}))
    _write_tokenizer(folder)


def _write_packed(plain: Path, folder: Path) -> None:
    """The same model with its projections in compressed-tensors' 4 bits, of any codes."""
    shutil.copytree(plain, folder)
    generator, tensors = np.random.default_rng(7), load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors.pop(name).shape
        words = generator.integers(-(2**31), 2**31, (rows, columns // 8)).astype(np.int32)
        scales = generator.uniform(0.01, 0.05, (rows, columns // 32)).astype(np.float16)
        tensors |= {f"{name}_packed": words, f"{name}_scale": scales, f"{name}_shape": np.array([rows, columns])}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    group = {"targets": ["Linear"], "weights": weights}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _write_tower(plain: Path, folder: Path) -> None:
    """The same model as the text of one that sees, with a tensor that no text needs."""
    shutil.copytree(plain, folder)
    text = json.loads((folder / "config.json").read_text())
    tensors = {
        f"model.language_model.{name.removeprefix('model.')}": tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    tensors["model.vision_tower.patches.weight"] = np.ones((8, 4), np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _write_adapter(folder: Path) -> None:
    folder.mkdir()
    generator, module = np.random.default_rng(8), "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{module}.lora_A.weight": generator.normal(0, 0.1, (4, 64)).astype(np.float32),
        f"{module}.lora_B.weight": generator.normal(0, 0.1, (64, 4)).astype(np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def _write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "special": True},
        "add_bos_token": True,
        "model_max_length": 128,
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "added_tokens_decoder": {"1": {"content": "<s>", "special": True, "lstrip": False}},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 0}))
