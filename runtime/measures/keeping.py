"""What is lost by keeping a part of a text only: bits of each token beyond it, beside those after the whole text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.adapter_file import Adapter, adapter_for
from edgepress.bundle.kept_text import KeptLoss, KeptText
from edgepress.finite import check_logits
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.measures.evaluate import read_corpus
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
    length = min(_longest(config, kept), tokens.size)
    if length < _LEAST * kept.tokens:
        return None
    texts = tokens[: tokens.size // length * length].reshape(-1, length)
    return _loss(config, kept, list(texts), threads=threads, prepared=False, adapter=None, progress=progress)


def loss_on_documents(
    bundle: Path,
    documents: Sequence[str],
    *,
    threads: int,
    graph: str | None = None,
    prepared: bool = True,
    adapter: Path | None = None,
    progress: Progress = silent,
) -> KeptLoss | None:
    """What a bundle that keeps a part of a text loses of ``documents``, as :func:`loss_of_keeping` measures it.

    A document is cut into texts of several times what is kept. None where all is kept, or no document is longer.

    Raises:
        InputError: the bundle cannot be run, or the adapter is not for it.

    """
    config = read_config(bundle, graph)
    kept = config.kept
    if kept is None:
        return None
    length = _longest(config, kept)
    texts = [
        document[start : start + length]
        for document in read_corpus(bundle, documents).documents
        for start in range(0, document.size - kept.tokens, length)
    ]
    texts = [text for text in texts if text.size > kept.tokens]
    applied = None if adapter is None else adapter_for(config.bundle, adapter)
    return (
        _loss(config, kept, texts, threads=threads, prepared=prepared, adapter=applied, progress=progress)
        if texts
        else None
    )


def _longest(config: BundleConfig, kept: KeptText) -> int:
    """How many tokens a text has at most, of which all can be kept to compare with."""
    return min(_LENGTHS * kept.tokens, config.context_length)


def _loss(
    config: BundleConfig,
    kept: KeptText,
    texts: Sequence[NDArray[np.int64]],
    *,
    threads: int,
    prepared: bool,
    adapter: Adapter | None,
    progress: Progress,
) -> KeptLoss:
    """What is lost of texts that are longer than what is kept."""
    bits = [0.0, 0.0]
    sizes = [text.size for text in texts]
    with progress(2 * sum(sizes), f"going on beyond {kept.tokens:,} tokens", " tokens") as advance:
        for way, context in enumerate((kept.tokens, max(sizes))):
            session = CpuSession(config, threads=threads, context=context, prefill_chunk=_PIECE, prepared=prepared)
            session = session if adapter is None else session.with_adapter(adapter)
            for text in texts:
                session.reset()
                bits[way] += _beyond(session, text, kept)
                advance(text.size)
    count = sum(sizes) - len(texts) * kept.tokens
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
