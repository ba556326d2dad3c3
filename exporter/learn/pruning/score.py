"""Bits per byte of a checkpoint on the held-out text: as ``edgepress eval`` scores a bundle, a layer at a time.

Memory is a layer, a batch of tokens and a piece of the head: logits are computed some rows of the head at a time, and
only the log of the sum of their exponentials and the logit of the next token are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.head import pieces
from edgepress.exporter.streams.streams import embedded, pass_layers
from edgepress.exporter.tokens.source_tokenizer import source_tokenizer
from edgepress.finite import check_figure
from edgepress.terminal.progress import Progress
from edgepress.text.windows import Window, windows

CONTEXT = 256  # tokens of a window, at most
DIGITS = 4  # of bits per byte: below them are the thread count and the processor
_TOKENS = 2048  # whose logits are made at once


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
    tokenizer = source_tokenizer(checkpoint)
    start = [] if bos is None else [bos]
    found: dict[int, list[Window]] = {}  # by the windows' length: longrope's table depends on it
    for document in documents:
        tokens = np.array([*start, *tokenizer.encode_plain(tokenizer.document(document, bos))], np.int64)
        for window in windows(tokens, *scored_context(context_length)):
            found.setdefault(window.tokens.size, []).append(window)
    if not found:
        raise InputError("no held-out document is longer than one token, so there is nothing to score; give more text")
    surprise = 0.0
    with ExitStack() as stack, progress(len(decoder.layers), f"scoring {label}", " layers") as advance:
        streams: dict[int, Activations] = {}
        for length, group in sorted(found.items()):
            rows = np.stack([window.tokens for window in group])  # (windows, length)
            path = folder / f"score-{length}.f32"
            streams[length] = stack.enter_context(embedded(checkpoint, decoder, rows, path, device))
        pass_layers(checkpoint, decoder, list(streams.values()), advance=advance)
        for length, stream in streams.items():
            surprise += _windows_surprise(checkpoint, decoder, stream, found[length])
    return round(surprise / math.log(2) / sum(len(document.encode()) for document in documents), DIGITS)


def _windows_surprise(checkpoint: Checkpoint, decoder: Decoder, stream: Activations, group: Sequence[Window]) -> float:
    """The surprise of all scored tokens of windows of one length, whose streams have passed the layers."""
    total = 0.0
    for batch in stream.batches(_TOKENS):
        some = group[batch]
        x = stream.read(batch)  # (windows, length, hidden)
        scored = [row[-window.scored - 1 : -1] for row, window in zip(x, some, strict=True)]
        targets = np.concatenate([window.tokens[-window.scored :] for window in some])
        total += surprise(checkpoint, decoder, torch.cat(scored), targets)
    return total


def surprise(checkpoint: Checkpoint, decoder: Decoder, x: Tensor, targets: NDArray[np.int64]) -> float:
    """Summed negative log-likelihood, in nats, of ``targets`` (tokens,).

    ``x`` (tokens, hidden) are the inputs of the final norm at the tokens before them.
    """
    wanted = torch.from_numpy(targets).to(x.device)
    total = x.new_full((len(x),), -math.inf, dtype=torch.float64)  # log of the sum of exponentials so far
    found = torch.zeros_like(total)  # logits of the targets
    with torch.no_grad():
        for at, values in pieces(checkpoint, decoder, x.device):
            logits = network.head_forward(decoder, values, x)  # (tokens, rows)
            total = torch.logaddexp(total, logits.logsumexp(-1).double())
            here = (wanted >= at.start) & (wanted < at.stop)
            found[here] = logits[here, wanted[here] - at.start].double()
    return check_figure(float((total - found).sum()), "the surprise of the held-out text")
