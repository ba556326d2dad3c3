"""Tiny random checkpoints, several of each family, made by transformers: what the architecture contract is held on.

Weights are drawn so that everything matters to the logits: projections keep the scale of their input, norm gains and
biases are far from 1 and 0. ``config`` holds what transformers is given, ``patch`` what is then changed in the saved
config.json (the forms that older versions of transformers wrote).
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 320
CONTEXT = 128
TEXT = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and arrows. " * 4
)

Patch = Callable[[dict[str, object]], dict[str, object]]


@dataclass(frozen=True)
class Variant:
    """One tiny checkpoint: its family, the config that differs from the family's tiny one, and changes to its files."""

    model_type: str
    config: Mapping[str, object] = field(default_factory=dict)
    patch: Patch | None = None
    drop_prefix: str = ""  # removed from the names of the saved tensors
    dtype: torch.dtype = torch.float32


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
LONG_FROM = 48  # longrope: prompts longer than this use the long factors


def _longrope(pairs: int) -> dict[str, object]:
    return {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0 + 0.05 * pair for pair in range(pairs)],
        "long_factor": [1.5 + 0.5 * pair for pair in range(pairs)],
        "original_max_position_embeddings": LONG_FROM,
    }


def _version_4(**changes: object) -> Patch:
    """Write the config as transformers 4 did: rope keys at the top level, no layer_types."""

    def patch(config: dict[str, object]) -> dict[str, object]:
        kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types", "dtype")}
        return kept | {"torch_dtype": "float32", "transformers_version": "4.49.0"} | changes

    return patch


VARIANTS: dict[str, Variant] = {
    "llama": Variant("llama"),
    "llama-tied-llama3": Variant("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama-biases-head_dim": Variant(
        "llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "num_key_value_heads": 1}
    ),
    "llama-linear-version4": Variant(
        "llama",
        {"rope_parameters": LINEAR, "num_key_value_heads": 4},
        _version_4(rope_theta=10_000.0, rope_scaling={"type": "linear", "factor": 4.0}, pretraining_tp=1),
    ),
    "llama-yarn-mscale": Variant(
        "llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.3, "truncate": False}}
    ),
    "llama-longrope": Variant("llama", {"rope_parameters": _longrope(8)}),
    "llama-bfloat16-gelu": Variant("llama", {"hidden_act": "gelu"}, dtype=torch.bfloat16),
    "mistral-window": Variant("mistral", {"sliding_window": 16}),
    "mistral-full": Variant("mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": Variant("qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}),
    "qwen2-windows-yarn": Variant(
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1, "rope_parameters": YARN},
    ),
    "qwen2-version4": Variant(
        "qwen2", {"rope_parameters": {"rope_theta": 1e6}}, _version_4(rope_theta=1e6, use_mrope=False)
    ),
    "qwen3": Variant("qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    "qwen3-windows-biases": Variant(
        "qwen3",
        {
            "head_dim": 16,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gemma3_text": Variant(
        "gemma3_text",
        {
            "head_dim": 32,
            "sliding_window": 16,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": LINEAR | {"rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma3_text-version4": Variant(
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": 16,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "final_logit_softcapping": 3.0,
            "attention_bias": True,
            "rope_parameters": {
                "full_attention": LINEAR | {"rope_theta": 2e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        _version_4(
            sliding_window_pattern=2,
            rope_theta=2e6,
            rope_local_base_freq=2e4,
            rope_scaling={"rope_type": "linear", "factor": 4.0},
            cache_implementation="hybrid",
        ),
    ),
    "phi3": Variant("phi3", {"sliding_window": 16}),
    "phi3-longrope-partial": Variant(
        "phi3",
        {
            "original_max_position_embeddings": LONG_FROM,
            "rope_parameters": _longrope(6) | {"partial_rotary_factor": 0.75},
            "tie_word_embeddings": True,
        },
    ),
    "phi3-longrope-version4": Variant(
        "phi3",
        {"original_max_position_embeddings": LONG_FROM, "rope_parameters": _longrope(8)},
        _version_4(
            rope_theta=10_000.0,
            rope_scaling={
                "type": "longrope",
                "short_factor": _longrope(8)["short_factor"],
                "long_factor": _longrope(8)["long_factor"],
            },
        ),
    ),
    "smollm3": Variant("smollm3", {"num_hidden_layers": 4}),
    "smollm3-windows": Variant(
        "smollm3",
        {
            "use_sliding_window": True,
            "sliding_window": 16,
            "no_rope_layers": [0, 1, 0],
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "olmo2": Variant("olmo2"),
    "olmo2-biases": Variant("olmo2", {"attention_bias": True, "num_key_value_heads": 4, "rope_parameters": YARN}),
    "granite": Variant(
        "granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.125,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
    ),
    "granite-biases": Variant("granite", {"attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.25}),
    "gpt2": Variant("gpt2"),
    "gpt2-no-prefix-inner": Variant("gpt2", {"n_inner": 96}, drop_prefix="transformer."),
    "gpt2-untied-scales": Variant(
        "gpt2",
        {
            "tie_word_embeddings": False,
            "scale_attn_by_inverse_layer_idx": True,
            "scale_attn_weights": False,
            "activation_function": "relu",
        },
    ),
}
FIRST_VARIANTS = {variant.model_type: name for name, variant in reversed(VARIANTS.items())}


def save(name: str, directory: Path) -> Path:
    """Write variant ``name`` in Hugging Face form and return its directory."""
    return save_variant(VARIANTS[name], directory, seed=sum(name.encode()))


@dataclass
class _Made:
    """A checkpoint that was made in this process, and torch's generator after that."""

    variant: Variant
    folder: Path
    generator: torch.Tensor


_MADE: dict[str, _Made] = {}


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="edgepress-tiny-")


def save_variant(variant: Variant, directory: Path, *, seed: int) -> Path:
    """Write a tiny checkpoint in Hugging Face form and return its directory; each is made once a process."""
    key = f"{seed} {variant}"
    if key in _MADE:
        torch.set_rng_state(_MADE[key].generator)
    else:
        folder = _make(variant, Path(_home().name) / str(len(_MADE)), seed)
        _MADE[key] = _Made(variant, folder, torch.get_rng_state())
    shutil.copytree(_MADE[key].folder, directory, dirs_exist_ok=True)
    return directory


def _make(variant: Variant, directory: Path, seed: int) -> Path:
    directory.mkdir()
    config_class = transformers.CONFIG_MAPPING[variant.model_type]
    config = config_class(**((GPT2 if variant.model_type == "gpt2" else SMALL) | dict(variant.config)))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            _draw(parameter_name, parameter)
    model.to(variant.dtype).save_pretrained(directory)
    if variant.patch is not None:
        path = directory / "config.json"
        path.write_text(json.dumps(variant.patch(json.loads(path.read_text())), indent=2))
    if variant.drop_prefix:
        path = directory / "model.safetensors"
        tensors = {key.removeprefix(variant.drop_prefix): value for key, value in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    _save_tokenizer(directory)
    return directory


def _draw(name: str, parameter: torch.nn.Parameter) -> None:
    if parameter.ndim == 1:
        is_gain = name.endswith("weight") and "Gemma" not in name
        parameter.normal_(1.0 if is_gain and float(parameter.abs().sum()) > 0 else 0.0, 0.3)
    elif "embed" in name or "wte" in name or "wpe" in name:
        parameter.normal_(0.0, 0.3)
    else:
        fan_in = parameter.shape[0] if ".c_" in name else parameter.shape[1]  # Conv1D stores (in, out)
        parameter.normal_(0.0, 1.2 * fan_in**-0.5)


@cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def _save_tokenizer(directory: Path) -> None:
    _tokenizer().save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": CONTEXT,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
