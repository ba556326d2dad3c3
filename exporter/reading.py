"""What a checkpoint is: the decoder that it stores, and the token that its texts begin with."""

from __future__ import annotations

from collections.abc import Sequence

from edgepress.errors import InputError
from edgepress.exporter import bundle
from edgepress.exporter.architectures import architecture, check_layers, describe, unread_keys
from edgepress.exporter.checkpoint import Checkpoint, check_tensors, same_tensor
from edgepress.exporter.decoder import Decoder
from edgepress.exporter.genai_config import bos_token
from edgepress.exporter.source_tokenizer import whole_tokenizer


def read_decoder(checkpoint: Checkpoint) -> Decoder:
    """Describe the checkpoint's model; every config key is understood and every tensor is used, or it is an error."""
    where = str(checkpoint.directory / "config.json")
    check_layers(checkpoint.config, len(checkpoint.tensors), where)
    decoder = describe(checkpoint.config, checkpoint.tensors.keys(), where)
    if decoder.tied:
        _check_tied(checkpoint, decoder)
    ignored = architecture(decoder.model_type).ignored_tensors
    check_tensors(checkpoint, decoder.weights(), ignored=ignored)
    return decoder


def first_token(checkpoint: Checkpoint, decoder: Decoder) -> int | None:
    """The token that begins every text, None when the model has none."""
    return bos_token(decoder, checkpoint.config, bundle.read_generation(checkpoint))


def notes(checkpoint: Checkpoint, decoder: Decoder) -> tuple[str, ...]:
    """What a user should know of how a checkpoint was read: what was passed over, and what added; a sentence each."""
    found = list(unread_keys(checkpoint.config))
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
    return tuple(found)


def _some(tokens: Sequence[str]) -> str:
    more = f" and {len(tokens) - 3} more" if len(tokens) > 3 else ""
    return f"{', '.join(map(repr, tokens[:3]))}{more}"


def _check_tied(checkpoint: Checkpoint, decoder: Decoder) -> None:
    """Refuse a checkpoint whose config ties head and embedding while it stores two that differ: which is meant?"""
    embedding, stored_head = decoder.embedding.parts[0].tensor, "lm_head.weight"
    if stored_head in checkpoint.tensors and not same_tensor(checkpoint, embedding, stored_head):
        raise InputError(
            f"config.json ties the head to {embedding}, but the checkpoint stores another {stored_head}; "
            "set tie_word_embeddings to false, or remove that tensor"
        )
