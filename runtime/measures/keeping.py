"""What is lost by keeping a part of a text only: bits of each token beyond it, beside those after the whole text."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.kept_text import KeptLoss, KeptText
from edgepress.finite import check_logits
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Session
from edgepress.terminal.progress import Progress, silent

_LENGTHS = 4  # texts are so many times what is kept, where the model and the text have as much
_LEAST = 1.25  # and no fewer times
_PIECE = 128  # tokens whose logits are held at once


def loss_of_keeping(
    bundle: Path, kept: KeptText, tokens: NDArray[np.int64], *, threads: int, progress: Progress = silent
) -> KeptLoss | None:
    """What a bundle loses of ``tokens`` (length,) by keeping no more of a text; None where they are too few.

    They are texts of several times what is kept, one after the other. Each token beyond what is kept is scored as it
    comes in a text that goes on so, and as it comes where all of the text before it is there, for which the model's
    context must have room.

    Raises:
        InputError: the bundle cannot be run.

    """
    config = read_config(bundle)
    length = min(_LENGTHS * kept.tokens, tokens.size, config.context_length)
    if length < _LEAST * kept.tokens:
        return None
    texts = tokens[: tokens.size // length * length].reshape(-1, length)
    bits = [0.0, 0.0]
    with progress(2 * texts.size, f"going on beyond {kept.tokens:,} tokens", " tokens") as advance:
        for way, context in enumerate((kept.tokens, length)):
            session = CpuSession(config, threads=threads, context=context, prefill_chunk=_PIECE, prepared=False)
            for text in texts:
                session.reset()
                bits[way] += _beyond(session, text, kept)
                advance(length)
    count = len(texts) * (length - kept.tokens)
    return KeptLoss(count, bits[0] / count, bits[1] / count)


def _beyond(session: Session, text: NDArray[np.int64], kept: KeptText) -> float:
    """Bits of all tokens of a text beyond what is kept, by a session that has room for that, or for the whole text."""
    at, bits = 0, 0.0
    while at < text.size - 1:  # the last token is not read: nothing comes after it
        if session.position == session.context:
            session.evict(kept.first, kept.forgotten + 1)  # and room for the token that comes, as in answers
        piece = text[at : min(at + _PIECE, at + session.context - session.position, text.size - 1)]
        rows = session.append(piece, 0)
        at += piece.size
        check_logits(rows, f"{session.name}, after {at} tokens")
        scored = min(piece.size, max(0, at - kept.tokens + 1))  # rows that predict a token beyond what is kept
        bits += _bits(rows[-scored:], text[at - scored + 1 : at + 1]) if scored else 0.0
    return bits


def _bits(logits: NDArray[np.float32], following: NDArray[np.int64]) -> float:
    """Bits of the tokens (rows,) that follow, by logits (rows, vocab)."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    chances = shifted[np.arange(following.size), following] - np.log(np.exp(shifted).sum(1))
    return float(-chances.sum() / np.log(2))
