"""The text model inside of a model that also takes images, video or sound.

Such a config has the text model's own in a section (``text_config``), and transformers makes the part from it as it
would alone: ``AutoModel.from_config``. So a section whose ``model_type`` is a family of ours is that family, its
tensors have one prefix more, and what is before the embeddings of other inputs is not needed for text. Text models with
a ``model_type`` that only the whole has are another family with something added: a file each says which, and ends in
``TOWER``.

What such models share and text does not need is positions in several axes (Wang et al. 2024, Qwen2-VL, section 2.1):
pairs of a head's dimensions rotate by a token's time, row or column (``mrope_section``). A token of text has one number
for all three, so that what is rotated, and by how much, is plain rotary embedding.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from edgepress.modules import modules_in

SECTIONS = ("text_config", "llm_config", "language_config")
# How class names end of models that generate text: transformers', and of code that comes with checkpoints.
_GENERATORS = (
    "ForConditionalGeneration",
    "ForCausalLM",
    "ForImageTextToText",
    "ForVisionText2Text",
    "ChatModel",
    "OmniModel",
)
_OUTER = ("thinker_config", "thinker.")  # Qwen's omni models: the section, and what names of its tensors begin with
_PREFIXES = {  # of the text model's tensors → what the family's names begin with; the first that is found
    "model.language_model.": "model.",  # transformers 5
    "language_model.": "",  # transformers 4: language_model.model.layers …, language_model.lm_head
    "model.text_model.": "model.",  # Idefics
    "text_model.": "",
    "model.llm.": "model.",
    "llm.": "",
    "model.": "model.",  # as alone, and the others beside it
}
_HEAD = "lm_head."
_BESIDE = (_HEAD, "mtp.")  # beside the text model in a whole, and of it: what predicts a token further too
# Phi-4-multimodal has adapters for other inputs around its matrices, and its other towers beside the embedding.
_BASE_LAYER, _OF_OTHERS = ".base_layer.", re.compile(r"\.lora_[AB]\.|^model\.embed_tokens_extend\.")
_ROPES = ("rope_parameters", "rope_scaling")
_AXES = ("mrope_section", "xdrope_section", "mrope_interleaved")
_AXES_KINDS = {"mrope": "default", "xdrope": "dynamic"}  # what they are with one axis
_TIED = "tie_word_embeddings"
# What a text model's own class does behind its head, by key, with the value that does nothing; the classes of wholes
# compute the head alone, but for some. Cohere's scale is there when its key is not.
_BEHIND_THE_HEAD: dict[str, object] = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
_WITH_ALL_OF_IT = frozenset(
    ("gemma3n", "gemma4", "gemma4_unified", "granite4_vision", "granite_docling", "hyperclovax_vision_v2", "paligemma")
)
_SCALED = frozenset(("cohere", "cohere2"))
_GIVEN: dict[str, dict[str, object]] = {  # what the config of a whole gives its text model's where that says nothing
    "paligemma": {"use_bidirectional_attention": True},  # a prompt is attended both ways
}
_FROM_THE_WHOLE = ("quantization_config", "compression_config", "quantization", "torch_dtype", "dtype")


@dataclass(frozen=True)
class Tower:
    """A text model with a ``model_type`` of its own that is the ``family``, with what the whole adds taken away.

    ``defaults`` are those of its config in transformers where the family's are others, ``theta`` that of
    ``rope_theta`` and ``share`` that of ``partial_rotary_factor``. ``renamed`` are keys of its own with the
    family's for them, and ``told(config)`` are keys of the family that it has no choice of.
    Configs of the wholes ``flat`` have, or had once, the keys of the text model at their own level. With
    ``tied_by_the_whole`` what the section says of the head is transformers' default, and has no effect.
    """

    model_type: str
    family: str
    defaults: Mapping[str, object] = field(default_factory=dict)
    theta: float | None = None
    share: float | None = None
    renamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told: Callable[[Mapping[str, object]], Mapping[str, object]] = lambda _: {}
    flat: tuple[str, ...] = ()
    tied_by_the_whole: bool = False

    def of_family(self, config: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
        """The config as the family has it, with a rope of one axis, and the notes on what was done."""
        values = {**self.defaults, **config}
        for ours, theirs in self.renamed.items():
            found = values.pop(ours, None)
            values |= {} if found is None else dict.fromkeys(theirs, found)
        values, notes = _plain_rope(values, {"rope_theta": self.theta, "partial_rotary_factor": self.share})
        return values | dict(self.told(values)) | {"model_type": self.family}, notes


@dataclass(frozen=True)
class TextModel:
    """The text model of a whole: its config, as its family has it, and what was done to get that, a sentence each."""

    whole: str
    section: str
    config: Mapping[str, object]
    notes: tuple[str, ...] = ()

    def with_head(self, stored: Collection[str]) -> TextModel:
        """The same with its head tied where no config says anything and there is no tensor of one."""
        if _TIED in self.config:
            return self
        return TextModel(
            self.whole, self.section, {**self.config, _TIED: not any(_HEAD in name for name in stored)}, self.notes
        )


def text_config(values: Mapping[str, object]) -> Mapping[str, object]:
    """The config of a model's text part; the config itself where it is of nothing else."""
    found = text_model(values)
    return values if found is None else found.config


def text_model(values: Mapping[str, object]) -> TextModel | None:
    """The text model that a config has beside others; None where it is of one alone, or of one that writes no text."""
    classes = values.get("architectures")
    name = classes[0] if isinstance(classes, list) and classes else ""
    whole = values.get("model_type")
    if not isinstance(whole, str) or not isinstance(name, str) or not (name.endswith(_GENERATORS) or not name):
        return None
    outer = values.get(_OUTER[0])
    if isinstance(outer, Mapping):
        found = text_model({**outer, "model_type": whole})
        return None if found is None else replace(found, section=f"{_OUTER[0]}.{found.section}")
    for section in SECTIONS:
        inner = values.get(section)
        if isinstance(inner, Mapping) and isinstance(inner.get("model_type"), str):
            return _plain(whole, section, values, inner)
    flat = next((tower for tower in map(_load, _names()) if whole in tower.flat), None)
    if flat is None:
        return None
    inner = {key: value for key, value in values.items() if key not in {*SECTIONS, "vision_config", "audio_config"}}
    return _plain(whole, "", values, {**inner, "model_type": flat.model_type})


def _plain(whole: str, section: str, outer: Mapping[str, object], inner: Mapping[str, object]) -> TextModel:
    """The config of a family that the section and the config around it describe."""
    config = {key: value for key, value in inner.items() if key not in {"architectures", "auto_map", "_name_or_path"}}
    ids = {key: value for key, value in outer.items() if key in {"bos_token_id", "eos_token_id", "pad_token_id"}}
    config |= {key: value for key, value in ids.items() if value is not None}
    config |= {key: outer[key] for key in _FROM_THE_WHOLE if outer.get(key) is not None and config.get(key) is None}
    kind = config["model_type"]
    tower = _load(str(kind)) if kind in _names() else None
    # transformers 5 asks the config of the whole, transformers 4 the section; either one ties
    asked = (outer,) if tower is not None and tower.tied_by_the_whole else (outer, inner)
    tied = [one[_TIED] for one in asked if isinstance(one.get(_TIED), bool)]
    config.pop(_TIED, None)
    if tied:
        config[_TIED] = any(tied)
    config |= {key: value for key, value in _GIVEN.get(whole, {}).items() if config.get(key) is None}
    config, notes = _behind_the_head(whole, config)
    if tower is None:
        return TextModel(whole, section, config, notes)
    config, more = tower.of_family(config)
    return TextModel(whole, section, config, (*notes, *more))


def _behind_the_head(whole: str, config: dict[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """A config without what the class of the whole does not do, and a note of each that is left out."""
    if whole in _WITH_ALL_OF_IT:
        return config, ()
    asked: dict[str, object] = {"logit_scale": "its default"} if config["model_type"] in _SCALED else {}
    asked |= {key: config[key] for key in _BEHIND_THE_HEAD if key in config}
    left = {key: value for key, value in asked.items() if value is not None and value != 1.0}
    notes = tuple(
        f"{key} = {value}: transformers' class of {whole} does not apply it, so that logits are those of its head"
        for key, value in left.items()
    )
    return config | {key: _BEHIND_THE_HEAD[key] for key in left}, notes


def _plain_rope(
    config: Mapping[str, object], defaults: Mapping[str, float | None]
) -> tuple[dict[str, object], tuple[str, ...]]:
    """A config whose rotary embedding has no axes, and the note that it had; ``defaults`` where it says nothing."""
    changed = dict(config)
    ropes = {key: dict(found) for key in _ROPES if isinstance(found := config.get(key), Mapping)}
    axes = next(((name, rope[name]) for rope in ropes.values() for name in _AXES[:2] if name in rope), None)
    for key, rope in ropes.items():
        kept = {name: value for name, value in rope.items() if name not in _AXES}
        kept |= {name: _AXES_KINDS.get(str(kept[name]), kept[name]) for name in ("type", "rope_type") if name in kept}
        changed[key] = kept
    for key, default in defaults.items():
        if default is not None and not any(key in one for one in (config, *ropes.values())):
            changed[key] = default
    if axes is None:
        return changed, ()
    return changed, (
        f"{axes[0]} = {axes[1]}: a token of text has the same position in every axis, so that this is plain rope",
    )


def text_names(stored: Collection[str]) -> dict[str, str]:
    """The names of the text model's tensors among all of a whole, and what the family calls them."""
    outer = _OUTER[1] if any(name.startswith(_OUTER[1]) for name in stored) else ""
    inside = {
        name.removeprefix(outer): name for name in stored if name.startswith(outer) and not _OF_OTHERS.search(name)
    }
    prefix = next((one for one in _PREFIXES if any(name.startswith(one) for name in inside)), "")
    ours = _PREFIXES.get(prefix, "")
    found = {stored: ours + name.removeprefix(prefix) for name, stored in inside.items() if name.startswith(prefix)}
    found |= {stored: name for name, stored in inside.items() if name.startswith(_BESIDE)}
    return {stored: name.replace(_BASE_LAYER, ".") for stored, name in found.items()}


@cache
def _names() -> frozenset[str]:
    """Every text model there is a file for."""
    return frozenset(module.name for module in modules_in(__path__))


@cache
def _load(name: str) -> Tower:
    found = importlib.import_module(f"{__name__}.{name}").TOWER
    assert isinstance(found, Tower)
    return found
