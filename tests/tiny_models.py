"""Tiny random checkpoints, several of each family, made by transformers: what the architecture contract is held on.

``families/<model_type>.py`` has each family's. Weights are drawn so that everything matters to the logits: projections
keep the scale of their input, norm gains and biases are far from 1 and 0.
"""

import importlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from variants import CONTEXT, LONG_FROM, SMALL, VOCABULARY, Variant

__all__ = ["CONTEXT", "LONG_FROM", "SMALL", "VOCABULARY", "Variant"]

TEXT = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and arrows. " * 4
)

_FAMILIES = [
    importlib.import_module(f"families.{path.stem}")
    for path in sorted((Path(__file__).parent / "families").glob("*.py"))
]
VARIANTS: dict[str, Variant] = {name: variant for family in _FAMILIES for name, variant in family.VARIANTS.items()}
# Those on which transforms, pruning and static graphs are held as well: a family names them in METHODS, if any.
METHOD_VARIANTS: dict[str, Variant] = {
    name: VARIANTS[name] for family in _FAMILIES for name in getattr(family, "METHODS", ())
}
# Pruning steps that a family's config or layers cannot do, by step and model_type: it names them in REFUSES, if any.
# A model without experts has none to leave out.
REFUSED = {
    (step, variant.model_type)
    for family in _FAMILIES
    for step in getattr(family, "REFUSES", ())
    for variant in family.VARIANTS.values()
} | {
    ("experts", variant.model_type)
    for variant in VARIANTS.values()
    if not any("expert" in key for key in variant.config)
}
FIRST_VARIANTS = {variant.model_type: name for name, variant in reversed(VARIANTS.items())}
# Variants that stand for all families where only what a model is made of can matter, and what each is there for.
# Together they have every kind of mixer (tests/contracts/test_architectures.py).
REPRESENTATIVES = {
    "llama": "attention and gated MLPs, an untied head",
    "qwen2": "biases of q, k and v, a tied head",
    "gpt2": "layer norms, learned positions, transposed weights, ungated MLPs",
    "gpt_neox": "parallel layers, interleaved rows of qkv, partly rotated heads",
    "bloom": "ALiBi, a norm behind the embedding",
    "gemma2": "soft caps, norms on both sides, windows",
    "gemma3n_text": "copies of the stream, low-rank residuals, sparse gates",
    "gemma4_text": "inputs by layer, shared keys and values, two head sizes",
    "gemma4_text-experts": "experts gated by gelu",
    "lfm2": "short convolutions",
    "qwen3_5_text": "gated delta rule",
    "mamba": "state spaces alone",
    "mamba2": "state spaces with heads alone",
    "falcon_h1": "state spaces beside attention",
    "jamba": "state spaces and attention in turns",
    "minicpm3": "latent attention, a residual multiplier",
    "olmoe": "experts",
    "gpt_oss": "experts with biases, sinks, bfloat16",
    "deepseek_v3": "latent attention, experts beside a shared one",
    "granitemoehybrid": "multipliers everywhere, state spaces beside attention",
}


def held_on(step: str) -> list[str]:
    """Variants on which a pruning step is held: METHODS, and those that stand for all, of families that can do it."""
    names = {*METHOD_VARIANTS, *REPRESENTATIVES}
    return sorted(name for name in names if (step, VARIANTS[name].model_type) not in REFUSED)


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
    config = config_class(**(dict(variant.sizes) | dict(variant.config)))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            draw(parameter_name, parameter)
        for buffer_name, buffer in model.named_buffers():
            if buffer.ndim and buffer_name in model.state_dict():  # what is added to a router's scores; no constants
                draw(buffer_name, buffer)
        for parameter_name, parameter in model.named_parameters():
            for part, gain in variant.gains.items():
                parameter.mul_(gain if part in parameter_name else 1.0)
    model.to(variant.dtype).save_pretrained(directory)
    if variant.patch is not None:
        path = directory / "config.json"
        path.write_text(json.dumps(variant.patch(json.loads(path.read_text())), indent=2))
    if variant.drop_prefix:
        path = directory / "model.safetensors"
        tensors = {key.removeprefix(variant.drop_prefix): value for key, value in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    save_tokenizer(directory)
    return directory


def draw(name: str, parameter: torch.nn.Parameter) -> None:
    if name.endswith("A_log"):  # of state spaces: some forget within a token, others in hundreds
        parameter.normal_(-2.0, 1.5)
    elif name.endswith("layer_scalar"):
        parameter.normal_(0.9, 0.2)
    elif parameter.ndim == 1:
        is_gain = name.endswith("weight") and "Gemma" not in name
        parameter.normal_(1.0 if is_gain and float(parameter.abs().sum()) > 0 else 0.0, 0.3)
    elif "embed" in name or "wte" in name or "wpe" in name:
        parameter.normal_(0.0, 0.3)
    else:
        fan_in = parameter.shape[0] if ".c_" in name else parameter.shape[1]  # Conv1D stores (in, out)
        if parameter.ndim == 3 and "experts." in name:  # (experts, out, in)
            fan_in = parameter.shape[2]
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


def save_tokenizer(directory: Path) -> None:
    _tokenizer().save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": CONTEXT,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
