"""Reads a checkpoint's ``config.json`` and remembers what was read, so that nothing in it is ignored by accident.

Every value is either read by the architecture file, or without effect on the logits (:data:`WITHOUT_EFFECT`, each with
its reason), or an error that names it when transformers' class of the model reads it, or noted when it does not
(:attr:`Config.notes`).
"""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from edgepress.errors import InputError
from edgepress.schema import INFINITY

LARGEST = 2**31 - 1  # of an integer in a config

Number = TypeVar("Number", int, float)

# Keys that cannot change the logits of one forward pass at inference, and why. Full-match regular expressions.
WITHOUT_EFFECT: dict[str, str] = {
    r"architectures|model_type|auto_map|_name_or_path|name_or_path|_commit_hash|tokenizer_class": "names, not numbers",
    r"transformers_version|unsloth_\w+|transformers\.js_config|is_llama_config": "who wrote the file, and for whom",
    r"(torch_)?dtype": "how the weights are stored; each tensor says so itself",
    r"\w+_token_ids?|suppress_tokens|begin_suppress_tokens|bad_words_ids": "what tokens mean to a generation loop",
    r"(attention(_probs)?|hidden|resid(ual)?|emb(e?d(ding)?)?|attn|activation|classifier|summary_(first|last))_?"
    r"(dropout|pdrop)(_prob)?|dropout|layerdrop|init_std": "training",
    r"(\w+_)?initializer_range|initializer_factor|gradient_checkpointing": "training",
    r"use_cache": "whether there is a cache",
    r"output_\w+|return_dict|return_dict_in_generate|torchscript|use_return_dict": "what transformers returns",
    r"_?attn_implementation(_\w+)?|cache_implementation|use_flash_attn|_flash_attn_2_enabled": "same mathematics",
    r"pretraining_tp": "splits matmuls and joins the pieces: same mathematics (SmolLM3-3B ships 2)",
    r"id2label|label2id|_?num_labels|problem_type|finetuning_task|task_specific_params|prefix": "other tasks' heads",
    r"summary_(type|use_proj|activation|proj_to_labels)": "GPT-2's double-heads model",
    r"(max|min)_(new_tokens|length)|do_sample|early_stopping|num_beams|num_beam_groups|temperature|top_k|top_p|typical_p"
    r"|repetition_penalty|length_penalty|diversity_penalty|no_repeat_ngram_size|num_return_sequences"
    r"|encoder_no_repeat_ngram_size|remove_invalid_values|exponential_decay_length_penalty|renormalize_logits": (
        "generation settings; logits come before them"
    ),
    r"n_ctx|max_sequence_length|tokenizer_model_max_length|model_max_length": "lengths that transformers does not read",
    r"router_(aux_loss|z_loss)_coef": "training of routers",
    r"chunk_size_feed_forward": "computes the MLP in pieces: same mathematics",
}
_WITHOUT_EFFECT = re.compile("|".join(f"(?:{pattern})" for pattern in WITHOUT_EFFECT))

# Keys whose one harmless value is what every architecture computes, so that nothing needs to be said of it. Another
# value is refused where transformers reads the key, and noted elsewhere.
ONLY_VALUE: dict[str, object] = {
    "is_causal": True,
    "partial_rotary_factor": 1.0,
    "is_encoder_decoder": False,
    "is_decoder": False,  # set by encoder-decoder wrappers only
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "use_mrope": False,
    "rope_interleaved": False,  # SmolLM2 ships it
    "use_bidirectional_attention": False,
    "use_bfloat16": False,  # TensorFlow only
    # Read by some families (which then do not leave them for here) and absent from the others: Phi-4-mini ships them.
    "attention_bias": False,
    "mlp_bias": False,
    "lm_head_bias": False,
    "qkv_bias": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
}
# What transformers' code for all models reads of any config, and may change the logits; families add to it
# (Architecture.config_keys). A test finds both in transformers' source.
READ_BY_ALL = (
    "attention_chunk_size",  # cache_utils, masking_utils
    "is_causal",  # masking_utils
    "is_encoder_decoder",  # configuration_utils
    "kv_sharing_modes",  # cache_utils
    "layer_types",  # cache_utils, masking_utils
    "per_layer_config",  # configuration_utils, modeling_layers
    "pruned_heads",  # transformers 4
    "sliding_window",  # cache_utils, masking_utils
)
QUANTIZED = ("quantization_config", "quantization", "compression_config")  # transformers; MLX; compressed-tensors once


class Config:
    """A mapping of keys to JSON values that records which ones were read.

    A key that is missing, or null, takes the default; without a default that is an error. The ``optional_`` ones return
    None for null. ``where`` says which file
    (and which section of it) the values come from, for messages.
    """

    def __init__(self, values: Mapping[str, object], where: str = "config.json") -> None:
        self.values = dict(values)
        self.where = where
        self.notes: list[str] = []  # what was passed over, a sentence each; complete once finished
        self.significant: Collection[str] | None = None  # the keys that must be read if they are there; None: all
        self._read: set[str] = set()
        self._sections: list[Config] = []
        self._is_section = False

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """Return an integer of at least ``minimum``."""
        value = self.optional_integer(key, minimum=minimum)
        return self._or_default(key, value, default)

    def number(self, key: str, default: float | None = None, *, above: float = -math.inf) -> float:
        """Return a finite number greater than ``above``."""
        value = self.optional_number(key, above=above)
        return self._or_default(key, value, default)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(key, "must be true or false")
        return value

    def text(self, key: str, default: str, allowed: Collection[str]) -> str:
        """Return one of the ``allowed`` strings."""
        value = self._value(key)
        if value is None:
            return default
        if not isinstance(value, str) or value not in allowed:
            raise self.refuse(key, f"not implemented; known: {', '.join(sorted(allowed))}")
        return value

    def optional_integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int | None:
        """Return an integer of at least ``minimum``, None for null, the default when the key is missing."""
        value = self._value(key)
        if value is None:
            return None if key in self.values else default
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.refuse(key, f"must be an integer of at least {minimum}")
        if value > LARGEST:
            raise self.refuse(key, f"must be at most {LARGEST}: no model has so much of anything")
        return value

    def optional_number(self, key: str, default: float | None = None, *, above: float = -math.inf) -> float | None:
        """Return a finite number greater than ``above``, None for null, the default when the key is missing."""
        value = self._value(key)
        if value is None:
            return None if key in self.values else default
        number = _number(value)
        if number is None or number <= above:
            raise self.refuse(key, "must be a finite number" + (f" above {above:g}" if above > -math.inf else ""))
        return number

    def optional_integers(self, key: str, length: int) -> list[int] | None:
        """Return a list of at least ``length`` integers, or None."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) < length:
            raise self.refuse(key, f"must be a list of {length} integers")
        integers = [item for item in value if isinstance(item, int)]
        if len(integers) != len(value):
            raise self.refuse(key, f"must be a list of {length} integers")
        return integers

    def integers_by_layer(self, key: str, default: int, layers: int) -> tuple[int, ...]:
        """Return one integer of at least 1 for each layer: a list of exactly so many, or one number for all."""
        if not isinstance(self.values.get(key), list):
            return (self.integer(key, default),) * layers
        found = self.optional_integers(key, layers) or []
        if len(found) != layers or min(found) < 1 or any(isinstance(item, bool) for item in found):
            raise self.refuse(key, f"must be an integer of at least 1, or a list of {layers}, one for each layer")
        return tuple(found)

    def numbers(self, key: str, length: int) -> list[float]:
        """Return a list of exactly ``length`` finite numbers."""
        value = self._value(key)
        if not isinstance(value, list) or len(value) != length:
            raise self.refuse(key, f"must be a list of {length} numbers")
        numbers = [number for number in map(_number, value) if number is not None]
        if len(numbers) != length:
            raise self.refuse(key, f"must be a list of {length} finite numbers")
        return numbers

    def optional_numbers(self, key: str, length: int) -> list[float] | None:
        """Return a list of exactly ``length`` finite numbers, or None."""
        return None if self._value(key) is None else self.numbers(key, length)

    def limits(self, key: str, low: float, high: float = math.inf) -> tuple[float, float]:
        """Return the least and the largest value that something may have; the largest may be infinite.

        That is :data:`edgepress.schema.INFINITY`.
        """
        value = self._value(key)
        if value is None:
            return low, high
        ends = [math.inf if end == INFINITY else end for end in value] if isinstance(value, list) else []
        numbers = [end if end == math.inf else _number(end) for end in ends]
        if len(numbers) != 2 or not isinstance(numbers[0], float) or not isinstance(numbers[1], float):
            raise self.refuse(key, "must be a list of two numbers, of which the second may be Infinity")
        if not 0.0 <= numbers[0] <= numbers[1] or numbers[0] == math.inf:
            raise self.refuse(key, "must be a list of two numbers of at least 0, the smaller one first")
        return numbers[0], numbers[1]

    def optional_texts(self, key: str, length: int, allowed: Collection[str]) -> list[str] | None:
        """Return a list of exactly ``length`` strings, each one of ``allowed``, or None."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length:
            raise self.refuse(key, f"must be a list of {length}, one for each layer")
        texts = [item for item in value if isinstance(item, str) and item in allowed]
        if len(texts) != length:
            raise self.refuse(key, f"not implemented; known: {', '.join(sorted(allowed))}")
        return texts

    def section(self, key: str) -> "Config | None":
        """Return a nested mapping as a Config of its own, finished together with this one, or None."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse(key, "must be a mapping")
        section = Config(value, f"{self.where}: {key}")
        section._is_section = True
        self._sections.append(section)
        return section

    def has(self, key: str) -> bool:
        """Whether the key is there and not null. Does not count as reading it."""
        return self.values.get(key) is not None

    def without_effect(self, *keys: str) -> None:
        """Count keys as read that the reference implementation of this architecture does not use."""
        self._read.update(keys)

    def refuse(self, key: str, why: str) -> InputError:
        """Return the error for a value that is understood and not supported."""
        return InputError(f"{self.where}: {key} = {_shown(self.values.get(key))}: {why}")

    def finish(self) -> None:
        """Raise InputError for every significant key that nobody read, and note the others; null means not set."""
        for key, value in self.values.items():
            if key in self._read or value is None or _WITHOUT_EFFECT.fullmatch(key):
                continue
            if key in QUANTIZED:
                raise self.refuse(key, "the checkpoint is quantized already; export the original one")
            if key in ONLY_VALUE and value == ONLY_VALUE[key]:
                continue
            if key == "layer_types" and isinstance(value, list) and {*map(str, value)} == {"full_attention"}:
                continue
            if self.significant is None or key in self.significant or (isinstance(value, dict) and self._is_section):
                self._refuse_unread(key)
            self.notes.append(f"{self.where}: {key} = {_shown(value)} is passed over: {self._why_not_read(key)}")
        for section in self._sections:
            section.finish()
            self.notes += section.notes

    def _refuse_unread(self, key: str) -> None:
        if key in ONLY_VALUE:
            raise self.refuse(key, f"not implemented; only {_shown(ONLY_VALUE[key])} is")
        kind = self.values.get("model_type", "this architecture")
        raise self.refuse(key, f"not implemented for {kind}; exporting without it would change the model")

    def _why_not_read(self, key: str) -> str:
        near = difflib.get_close_matches(key, sorted(self._read - self.values.keys()), n=1, cutoff=0.85)
        meant = f"; was {near[0]} meant?" if near else ""
        kind = self.values.get("model_type")
        if isinstance(kind, str) and not _is_in_transformers(kind):
            return f"the file for {kind} does not read it, and transformers has no such model to compare with{meant}"
        return f"transformers does not read it for this model either{meant}"

    def _value(self, key: str) -> object:
        self._read.add(key)
        return self.values.get(key)

    def _or_default(self, key: str, value: Number | None, default: Number | None) -> Number:
        if value is not None:
            return value
        if default is None:
            raise InputError(f"{self.where}: {key} is missing, and there is no default for it")
        return default


def _is_in_transformers(model_type: str) -> bool:
    """Whether transformers, where it is installed, has files for a model type; nothing of it is imported."""
    found = find_spec("transformers")
    if found is None or found.origin is None:
        return False
    return (Path(found.origin).parent / "models" / model_type.removesuffix("_text").replace("-", "_")).is_dir()


def _number(value: object) -> float | None:
    """Return a finite number as float, or None when it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
