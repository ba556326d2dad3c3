"""Inputs of models whose configs leave out what most have, and of classes with experts."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgepress.exporter.doors.heads import find_head
from edgepress.exporter.doors.inputs import feeds_of, given_inputs
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.ways.checkpoint import open_checkpoint
from edgepress.sessions import open_on_cpu


class Characters(torch.nn.Module):
    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=16))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids


def test_a_config_without_a_vocabulary_takes_characters(tmp_path: Path) -> None:
    inputs = given_inputs(find_head("token-classification"), Characters(), tmp_path)
    tokens = next(feeds_of(inputs)(0))["input_ids"]
    assert tokens.shape == (2, 9)
    assert tokens.min() >= 0
    assert 1000 < tokens.max() < 0x110000


def test_experts_are_computed_as_transformers_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        pad_token_id=0,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.MixtralForSequenceClassification(config).eval()  # computes experts its own way
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "work").mkdir()
    traced = open_checkpoint(str(tmp_path / "model"), Options(), tmp_path / "work")
    tokens = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    (found,) = open_on_cpu(traced.file).run(["logits"], {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
