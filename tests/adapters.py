"""LoRA adapters that peft makes, and the logits of the models that it merges them into."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from edgepress.exporter.source.adapters import CONFIG, WEIGHTS

TOKENS = np.random.default_rng(0).integers(3, 300, 24).astype(np.int64)


def peft_adapter(
    base: Path, folder: Path, *, seed: int = 0, whole: bool | str = "auto", **config: object
) -> np.ndarray:
    """Let peft make and save an adapter; return the logits of the model that peft merged it into.

    ``whole`` is peft's ``save_embedding_layers``.
    """
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", lora_alpha=8, **config))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped.save_pretrained(folder, save_embedding_layers=whole)
    merged = wrapped.merge_and_unload().eval()
    with torch.inference_mode():
        logits: np.ndarray = merged(torch.from_numpy(TOKENS)[None]).logits[0].numpy()
    return logits


def write_adapter(folder: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    """An adapter in peft's form."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **config}))
    save_file({f"base_model.model.{name}": value for name, value in tensors.items()}, folder / WEIGHTS)
    return folder


def factors(rows: int, columns: int, rank: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A and B."""
    draw = np.random.default_rng(seed)
    return (
        0.3 * draw.normal(size=(rank, columns)).astype(np.float32),
        0.3 * draw.normal(size=(rows, rank)).astype(np.float32),
    )


def lora(a: np.ndarray, b: np.ndarray, module: str) -> dict[str, np.ndarray]:
    """The tensors of a module's pair."""
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
