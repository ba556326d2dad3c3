"""The head a piece at a time: some of its rows and their logits, so that neither is whole in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.streams import held, values_of
from edgepress.finite import check_figure

ROWS = 2048  # of the head, whose logits are made at once


def pieces(checkpoint: Checkpoint, decoder: Decoder, device: torch.device) -> Iterator[tuple[slice, operations.Values]]:
    """Slices of the head's rows, each with the weights that ``head_forward`` needs for their logits."""
    head = decoder.head
    small = held(values_of(checkpoint, device), decoder.head_weights())
    (part,) = head.weight.parts
    for first in range(0, decoder.vocab_size, ROWS):
        at = slice(first, min(first + ROWS, decoder.vocab_size))
        rows = checkpoint.part_rows(part, at.start, at.stop) + np.float32(head.weight.plus)
        piece = torch.from_numpy(rows).to(device)  # (rows, hidden)

        def values(weight: Weight, piece: Tensor = piece, at: slice = at) -> Tensor:
            if weight is head.weight:
                return piece
            return small(weight)[at] if weight is head.bias else small(weight)

        yield at, values


def log_totals(checkpoint: Checkpoint, decoder: Decoder, x: Tensor) -> Tensor:
    """Log of the sum of the logits' exponentials, float64 (tokens,), for ``x`` (tokens, hidden) before the norm."""
    total = x.new_full((len(x),), -math.inf, dtype=torch.float64)
    with torch.no_grad():
        for _, values in pieces(checkpoint, decoder, x.device):
            total = torch.logaddexp(total, network.head_forward(decoder, values, x).logsumexp(-1).double())
    return total


def divergences(checkpoint: Checkpoint, decoder: Decoder, x: Tensor, others: list[Tensor]) -> list[float]:
    """Σ over tokens of KL(logits of ``x`` ‖ logits of each of ``others``), in nats; (tokens, hidden) before the norm.

    With z the logits less the log total of those of ``x``, p = exp(z): KL = log Σ exp(z') − Σ p (z' − z).
    """
    shift = log_totals(checkpoint, decoder, x).float()[:, None]  # (tokens, 1)
    totals = [x.new_full((len(x),), -math.inf, dtype=torch.float64) for _ in others]
    means = [torch.zeros_like(total) for total in totals]
    with torch.no_grad():
        for _, values in pieces(checkpoint, decoder, x.device):
            z = network.head_forward(decoder, values, x) - shift  # (tokens, rows)
            p = z.exp()
            for number, other in enumerate(others):
                found = network.head_forward(decoder, values, other) - shift
                totals[number] = torch.logaddexp(totals[number], found.logsumexp(-1).double())
                means[number] += (p * (found - z)).sum(-1).double()
    sums = [float((total - mean).sum()) for total, mean in zip(totals, means, strict=True)]
    return [check_figure(kl, "the KL divergence of a smaller model on the text") for kl in sums]


def loss_gradient(checkpoint: Checkpoint, decoder: Decoder, x: Tensor, targets: Tensor) -> Tensor:
    """∂L/∂x, L being the summed loss of the tokens ``targets`` (tokens,); ``x`` (tokens, hidden) is before the norm.

    ∂L/∂logits is the softmax less 1 at the target, whose log total is known from a pass before.
    """
    shift = log_totals(checkpoint, decoder, x).float()[:, None]
    gradient = torch.zeros_like(x)
    for at, values in pieces(checkpoint, decoder, x.device):
        y = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = network.head_forward(decoder, values, y)  # (tokens, rows)
        slope = (logits.detach() - shift).exp()
        here = (targets >= at.start) & (targets < at.stop)
        slope[here, targets[here] - at.start] -= 1
        gradient += torch.autograd.grad(logits, y, slope)[0]
    return gradient
