"""``genai_config.json``: what onnxruntime-genai, and our own runtime, need to know to run the graph."""

import re
from collections.abc import Iterable, Mapping

from edgepress.bundle.states import WINDOW_SLACK, State
from edgepress.errors import InputError
from edgepress.exporter.model.description import Block, Decoder
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.model.reading import token_ids
from edgepress.exporter.plan.plan import Plan

# The names that onnxruntime-genai 0.18 runs as a plain decoder (its src/models/model_type.h). It gives "gpt2" and
# "phi3" a special treatment that is about its own builder's graphs; ours are all plain decoders.
_KNOWN_TYPES = {"gemma3_text", "granite", "lfm2", "llama", "mistral", "qwen2", "qwen3", "smollm3"}
_PLAIN_DECODER = "decoder"
_FIXED = {"convolution": "conv", "recurrent": "recurrent"}  # its words for states of a fixed size
_ERRORS_ONLY = 3  # onnxruntime's log severity
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")  # of the layer, in the name of an input or output

_SEARCH_DEFAULTS: dict[str, object] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
}


def make_genai_config(
    decoder: Decoder,
    plan: Plan,
    config: Mapping[str, object],
    generation: Mapping[str, object],
    filename: str = "model.onnx",
) -> dict[str, object]:
    """Return the content of ``genai_config.json``.

    ``config`` and ``generation`` are the checkpoint's config.json and generation_config.json; the latter wins.
    ``filename`` is the graph that onnxruntime-genai is to run.

    Raises:
        InputError: neither names an end-of-sequence token, or a token id is outside the vocabulary.

    """
    facts = {key: value for block in every(Block, decoder.layers) for key, value in block.mixer.genai().items()}
    eos = token_ids("eos_token_id", config, generation, decoder.vocab_size)
    bos = token_ids("bos_token_id", config, generation, decoder.vocab_size)
    pad = token_ids("pad_token_id", config, generation, decoder.vocab_size)
    if not eos:
        raise InputError("config.json names no eos_token_id, so that generation would never end; add it there")
    # onnxruntime warns of each input that has a default: no adapter is one
    quiet = {} if plan.adapter_slots is None else {"log_severity_level": _ERRORS_ONLY}
    parts: dict[str, object] = {
        "filename": filename,
        **facts,
        "hidden_size": decoder.hidden_size,
        "num_hidden_layers": len(decoder.layers),
        "session_options": {"log_id": "onnxruntime-genai", **quiet, "provider_options": []},
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **_names(plan.states, "past")},
        "outputs": {"logits": "logits", **_names(plan.states, "present")},
    }
    kinds = {"key-value" if state.in_place else state.kind for state in plan.states}
    if kinds == {"key-value", "convolution"}:  # it finds other states by itself
        parts["layer_types"] = _layer_types(decoder)
    if windows := {state.window for state in plan.states if state.window is not None}:
        parts["sliding_window"] = {
            "window_size": max(windows),  # of the memory of all such layers, which may be longer than their windows
            "cache_slack": WINDOW_SLACK,
            "slide_key_value_cache": False,  # the operator does, and where tokens are in the text is left as it is
            "slide_inputs": False,
            "layers": _windowed_layers(plan.states),
        }
    model: dict[str, object] = {
        "type": decoder.model_type if decoder.model_type in _KNOWN_TYPES else _PLAIN_DECODER,
        "vocab_size": decoder.vocab_size,
        "context_length": plan.context_length,
        "eos_token_id": eos if len(eos) > 1 else eos[0],
        "pad_token_id": (pad or eos)[0],
        "decoder": parts,
    }
    if bos:
        model["bos_token_id"] = bos[0]
    search = {key: _known(generation.get(key), default) for key, default in _SEARCH_DEFAULTS.items()}
    search.update(max_length=plan.default_context, min_length=0, num_beams=1, past_present_share_buffer=True)
    return {"model": model, "search": search}


def _names(states: Iterable[State], when: str) -> dict[str, str]:
    """The names of the states' inputs (``past``) or outputs (``present``), ``%d`` being the layer's number."""
    found = {}
    for state in states:
        word = _FIXED.get(state.kind, state.name.rpartition(".")[2])
        found[f"{when}_{word}_names"] = _NUMBER.sub("%d", state.input if when == "past" else state.output)
    return found


def _windowed_layers(states: Iterable[State]) -> list[int]:
    """The layers that keep a window alone."""
    numbers = (_NUMBER.search(state.name) for state in states if state.kind == "window")
    return sorted({int(found[0]) for found in numbers if found is not None})


def _layer_types(decoder: Decoder) -> list[str]:
    """Its word for each layer, which says what states it has."""
    return [
        "full_attention"
        if any(state.grows for block in layer.blocks for state in block.mixer.states(index))
        else "conv"
        for index, layer in enumerate(decoder.layers)
    ]


def _known(value: object, default: object) -> object:
    return default if value is None else value
