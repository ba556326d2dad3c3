"""What a checkpoint is: the decoder that it stores, and the token that its texts begin with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.model.architectures import (
    MTP,
    architecture,
    check_layers,
    describe,
    describe_mtp,
    unread_keys,
)
from edgepress.exporter.model.description import Decoder, MultiToken
from edgepress.exporter.model.rope import yarn_reach
from edgepress.exporter.model.weights import check_tensors
from edgepress.exporter.source import hub
from edgepress.exporter.source.checkpoint import Checkpoint, same_tensor
from edgepress.exporter.source.hub import Origin
from edgepress.exporter.tokens.source_tokenizer import source_tokenizer, whole_tokenizer
from edgepress.schema import read_object
from edgepress.text.documents import read_text

GENERATION = "generation_config.json"
_BY_YARN = ("qwen2", "qwen3")  # families whose model cards give YaRN for texts beyond the context of the config


def find_model(model: str, revision: str | None = None) -> tuple[Path, Origin | None]:
    """As :func:`resolve_model`, and which commit of which repository it is, None when it is no hub id."""
    return hub.find_model(model, revision, lambda config, where: describe(config, (), where))


def resolve_model(model: str, revision: str | None = None) -> Path:
    """Directory of ``demo``, of an existing path, or of a hub id ``org/name``, downloaded when it is not cached.

    Raises:
        InputError: none of the three, or the hub cannot be reached, does not know it or does not let us have it; or the
            repository holds something else than a text generator that can be exported.

    """
    return find_model(model, revision)[0]


def read_decoder(checkpoint: Checkpoint) -> Decoder:
    """Describe the checkpoint's model; every config key is understood and every tensor is used, or it is an error."""
    where = checkpoint.where
    check_layers(checkpoint.config, len(checkpoint.tensors), where)
    decoder = describe(checkpoint.config, checkpoint.tensors.keys(), where)
    if decoder.tied:
        _check_tied(checkpoint, decoder)
    ignored = architecture(decoder.model_type).ignored_tensors
    check_tensors(checkpoint, decoder.weights(), ignored=ignored)
    return decoder


def read_mtp(checkpoint: Checkpoint, decoder: Decoder) -> MultiToken:
    """Describe what the checkpoint has to predict a token further than ``decoder``, its model.

    Raises:
        InputError: it has none, or one of another form than is implemented.

    """
    found = describe_mtp(checkpoint.config, checkpoint.tensors.keys(), decoder, checkpoint.where)
    if found is None:
        raise InputError(
            f"the recipe has mtp = true, and {checkpoint.named} has no layer that predicts a token further (tensors "
            f"{MTP}*, as Qwen3.5 and Qwen3-Next have; those that DeepSeek and GLM number behind the last layer are not "
            "shipped); leave it out, or take a checkpoint that has one"
        )
    own = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(MTP)}
    check_tensors(replace(checkpoint, tensors=own), found.weights())
    return found


def first_token(checkpoint: Checkpoint, decoder: Decoder) -> int | None:
    """The token that begins every text, None when the model has none."""
    generation = checkpoint.json(GENERATION)
    return next(iter(token_ids("bos_token_id", checkpoint.config, generation, decoder.vocab_size)), None)


def token_ids(key: str, config: Mapping[str, object], generation: Mapping[str, object], vocab_size: int) -> list[int]:
    """Ids under ``key``, in generation_config.json or, where it has none, in config.json; negative ones are none."""
    for file, content in (("generation_config.json", generation), ("config.json", config)):
        value = content.get(key)
        candidates: list[object] = value if isinstance(value, list) else [] if value is None else [value]
        tokens = []
        for token in candidates:
            if not isinstance(token, int) or isinstance(token, bool) or token >= vocab_size:
                raise InputError(
                    f"{file}: {key} {token!r} is not a token of the vocabulary of {vocab_size}; correct it there"
                )
            if token >= 0:  # some configs write −1 for none
                tokens.append(token)
        if tokens:
            return tokens
    return []


def notes(checkpoint: Checkpoint, decoder: Decoder, *, mtp: bool = False) -> tuple[str, ...]:
    """What a user should know of how a checkpoint was read: what was passed over, and what added; a sentence each.

    ``mtp`` says that what predicts a token further is shipped.
    """
    found = [*_without_the_others(checkpoint), *unread_keys(checkpoint.config)]
    reach = yarn_reach(checkpoint.config)
    if reach is not None and reach > decoder.context_length:
        found.append(_longer_by_yarn(reach, decoder.context_length))
    found += [adapter.note for adapter in checkpoint.adapters]
    further = [tensor.nbytes for name, tensor in checkpoint.tensors.items() if name.startswith(MTP)]
    if further and not mtp:
        found.append(
            f"what predicts a token further ({MTP}*, {len(further)} tensors, {sum(further) / 1e6:.1f} MB) is left out; "
            "a recipe with mtp = true ships it, to speculate with"
        )
    if checkpoint.note:
        found.append(f"its weights are quantized already ({checkpoint.note}): they are read as what they stand for")
    if checkpoint.renamed:
        plain, stored = next(iter(checkpoint.renamed.items()))
        found.append(f"{len(checkpoint.renamed)} tensors have the names of a wrapper: {stored} is read as {plain}")
    tokenizer = whole_tokenizer(checkpoint)
    if tokenizer.completed:
        found.append(
            f"tokenizer.json is completed with what the files beside it say of {_some(tokenizer.completed)}, as "
            "transformers does it"
        )
    beyond = [text for text, token in tokenizer.tokens.items() if token >= decoder.vocab_size]
    if beyond:
        found.append(
            f"the tokenizer has {_some(beyond)} beyond the {decoder.vocab_size} rows of the embedding: a prompt that "
            "holds one cannot be computed"
        )
    if twice := _twice(decoder):
        found.append(
            f"{twice / 1e6:,.1f} million weights of experts are stored twice, as their gate too: onnxruntime computes "
            "experts with a gate alone"
        )
    doubled = _doubled(checkpoint)
    return (*found, doubled) if doubled else tuple(found)


def _without_the_others(checkpoint: Checkpoint) -> list[str]:
    """What is left out of a model that takes images or sound too, and what its text model was changed to."""
    text = checkpoint.text_of
    if text is None:
        return []
    found = [f"the text model of {text.whole} is exported, as {checkpoint.config.get('model_type')}"]
    if checkpoint.left_out:
        parts = [
            f"{name} ({count} tensors, {nbytes / 1e6:.1f} MB)" for name, (count, nbytes) in left_out(checkpoint).items()
        ]
        found.append(f"left out, as text does not need it: {', '.join(parts)}")
    return [*found, *text.notes]


def left_out(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Tensors and bytes of what is beside the text model, by the first names of its modules."""
    found: dict[str, tuple[int, int]] = {}
    for name, tensor in checkpoint.left_out.items():
        first, _, rest = name.partition(".")
        part = f"{first}.{rest.partition('.')[0]}" if first == "model" else first
        count, nbytes = found.get(part, (0, 0))
        found[part] = count + 1, nbytes + tensor.nbytes
    return found


def _twice(decoder: Decoder) -> int:
    """How many numbers the weights have that are made of the same rows twice."""
    weights = [weight for weight in decoder.weights() if len({*weight.parts}) < len(weight.parts)]
    return sum(math.prod(weight.shape) // 2 for weight in weights)


def _doubled(checkpoint: Checkpoint) -> str | None:
    """A sentence where the chat template and the tokenizer both begin a text: others would begin it twice."""
    if checkpoint.file("tokenizer.json") is None:
        return None
    tokenizer = source_tokenizer(checkpoint)
    added = tokenizer.added()
    text = None if added is None else tokenizer.library.id_to_token(added)
    if not text or not any("bos_token" in template or text in template for template in _chat_templates(checkpoint)):
        return None
    return (
        f"the chat template writes {text!r} and the tokenizer adds one: edgepress leaves the second out; elsewhere "
        "tokenize what the template gives with add_special_tokens=False"
    )


def _chat_templates(checkpoint: Checkpoint) -> list[str]:
    path = checkpoint.file("chat_template.jinja")
    found: list[object] = [] if path is None else [read_text(path)]
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = checkpoint.file(name)
        template = None if path is None else read_object(path, "copy it again").get("chat_template")
        entries = template if isinstance(template, list) else [template]  # several have names
        found += [entry.get("template") if isinstance(entry, dict) else entry for entry in entries]
    return [template for template in found if isinstance(template, str)]


def refuse_longer(checkpoint: Checkpoint, decoder: Decoder, context: int) -> None:
    """Raise InputError when a context is asked for that the model does not have, and say how to get it."""
    length = decoder.context_length
    if context <= length:
        return
    reach = yarn_reach(checkpoint.config)
    if reach is not None and reach > length:
        remedy = _longer_by_yarn(reach, length)
    elif reach is None and decoder.model_type in _BY_YARN:
        factor = float(math.ceil(context / length))
        remedy = (
            "where its publisher gives YaRN for longer texts (Qwen's cards do), add to config.json "
            f'"rope_scaling": {{"rope_type": "yarn", "factor": {factor}, "original_max_position_embeddings": '
            f'{length}}} and set "max_position_embeddings": {int(factor) * length}; else ask for {length} or less'
        )
    else:
        remedy = "ask for that or less"
    raise InputError(f"context_length {context} is more than the model's {length}; {remedy}")


def _longer_by_yarn(reach: int, length: int) -> str:
    return (
        f"its YaRN reaches {reach} positions and max_position_embeddings says {length}: set that to {reach} in "
        "config.json for the longer context"
    )


def _some(tokens: Sequence[str]) -> str:
    more = f" and {len(tokens) - 3} more" if len(tokens) > 3 else ""
    return f"{', '.join(map(repr, tokens[:3]))}{more}"


def _check_tied(checkpoint: Checkpoint, decoder: Decoder) -> None:
    """Refuse a checkpoint whose config ties head and embedding while it stores two that differ: which is meant?"""
    embedding, head = decoder.embedding.parts[0].tensor, "lm_head."
    names = [head, architecture(decoder.model_type).other_names.get(head, head)]
    stored_head = next((f"{name}weight" for name in names if f"{name}weight" in checkpoint.tensors), "")
    if stored_head in checkpoint.tensors and not same_tensor(checkpoint, embedding, stored_head):
        raise InputError(
            f"config.json ties the head to {embedding}, but the checkpoint stores another {stored_head}; "
            "set tie_word_embeddings to false, or remove that tensor"
        )
