"""What a checkpoint is: the decoder that it stores, and the token that its texts begin with."""

from __future__ import annotations

from edgepress.errors import InputError
from edgepress.exporter import bundle
from edgepress.exporter.architectures import architecture, describe
from edgepress.exporter.checkpoint import Checkpoint, check_tensors, same_tensor
from edgepress.exporter.decoder import Decoder
from edgepress.exporter.genai_config import bos_token


def read_decoder(checkpoint: Checkpoint) -> Decoder:
    """Describe the checkpoint's model; every config key is understood and every tensor is used, or it is an error."""
    where = str(checkpoint.directory / "config.json")
    decoder = describe(checkpoint.config, checkpoint.tensors.keys(), where)
    if decoder.tied:
        _check_tied(checkpoint, decoder)
    ignored = architecture(decoder.model_type).ignored_tensors
    check_tensors(checkpoint, decoder.weights(), ignored=ignored)
    return decoder


def first_token(checkpoint: Checkpoint, decoder: Decoder) -> int | None:
    """The token that begins every text, None when the model has none."""
    return bos_token(decoder, checkpoint.config, bundle.read_generation(checkpoint))


def _check_tied(checkpoint: Checkpoint, decoder: Decoder) -> None:
    """Refuse a checkpoint whose config ties head and embedding while it stores two that differ: which is meant?"""
    embedding, stored_head = decoder.embedding.parts[0].tensor, "lm_head.weight"
    if stored_head in checkpoint.tensors and not same_tensor(checkpoint, embedding, stored_head):
        raise InputError(
            f"config.json ties the head to {embedding}, but the checkpoint stores another {stored_head}; "
            "set tie_word_embeddings to false, or remove that tensor"
        )
