"""Checkpoints as transformers runs them, in float64: the oracle for what a change to some weights does."""

from pathlib import Path

import torch
import transformers


def load(checkpoint: Path) -> transformers.PreTrainedModel:
    """The checkpoint's own model."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=torch.float64,
        experts_implementation="eager",  # the others have no products in float64
    ).eval()


def log_probabilities(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Of the next token, (sequences, length, vocabulary), for ``tokens`` (sequences, length)."""
    with torch.no_grad():
        return model(tokens).logits.log_softmax(-1)


def mean_kl(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Mean over tokens of KL(expected ‖ found), both log probabilities, in nats."""
    return float((expected.exp() * (expected - found)).sum(-1).mean())
