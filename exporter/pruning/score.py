"""Bits per byte of a checkpoint on the held-out text: as ``edgepress eval`` scores a bundle, a layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.exporter.calibration import network
from edgepress.exporter.calibration.activations import Activations
from edgepress.exporter.checkpoint import Checkpoint
from edgepress.exporter.decoder import Decoder
from edgepress.exporter.pruning.streams import embedded, held, pass_layers, reader
from edgepress.progress import Progress
from edgepress.runtime.evaluate import Corpus, evaluate_logits, windows
from edgepress.runtime.tokenizer import read_tokenizer

CONTEXT = 256  # tokens of a window, at most
DIGITS = 4  # of bits per byte: below them are the thread count and the processor


def scored_context(context_length: int) -> tuple[int, int]:
    """Window and stride, in tokens, for a model of that context."""
    context = max(2, min(CONTEXT, context_length))
    return context, context // 2


def bits_per_byte(
    checkpoint: Checkpoint,
    decoder: Decoder,
    documents: Sequence[str],
    *,
    bos: int | None,
    context_length: int,
    folder: Path,
    device: torch.device,
    progress: Progress,
    label: str,
) -> float:
    """Bits per UTF-8 byte of ``documents``, in windows of at most 256 tokens; streams lie in ``folder`` meanwhile.

    Raises:
        InputError: no document has two tokens.

    """
    tokenizer = read_tokenizer(checkpoint.directory)
    start = [] if bos is None else [bos]
    corpus = Corpus(
        tuple(np.array([*start, *tokenizer.encode_plain(document)], np.int64) for document in documents),
        tuple(len(document.encode()) for document in documents),
        bos is not None,
    )
    context, stride = scored_context(context_length)
    pieces = [window.tokens for document in corpus.documents for window in windows(document, context, stride)]
    with ExitStack() as stack, progress(len(decoder.layers), f"scoring {label}", " layers") as advance:
        streams: dict[int, Activations] = {}  # by the windows' length: longrope's table depends on it
        for length in sorted({piece.size for piece in pieces}):
            tokens = np.stack([piece for piece in pieces if piece.size == length])  # (windows, length)
            path = folder / f"score-{length}.f32"
            streams[length] = stack.enter_context(embedded(checkpoint, decoder, tokens, path, device))
        if streams:
            pass_layers(checkpoint, decoder, list(streams.values()), advance=advance)
        source = _Head(checkpoint, decoder, streams, device)
        found = evaluate_logits(source, corpus, context=context, stride=stride)
    return round(found.bits_per_byte, DIGITS)


class _Head:
    """Logits of the windows, asked for in their order; their residual streams have passed the layers."""

    def __init__(
        self, checkpoint: Checkpoint, decoder: Decoder, streams: dict[int, Activations], device: torch.device
    ) -> None:
        norm, head = decoder.final_norm, decoder.head
        used = (norm.weight, norm.bias, head.weight, head.bias)
        self._values = held(reader(checkpoint, device), used)
        self._decoder, self._streams = decoder, streams
        self._next = dict.fromkeys(streams, 0)

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (length, vocabulary) of the next window of that length."""
        at = self._next[tokens.size]
        self._next[tokens.size] = at + 1
        with torch.no_grad():
            x = self._streams[tokens.size].read(slice(at, at + 1))
            found: NDArray[np.float32] = network.head_forward(self._decoder, self._values, x)[0].cpu().numpy()
        return found
