"""Tiny checkpoints with a layer that predicts a token further, and what that computes by transformers and torch alone.

The layer, ``mtp.layers.0``, is a layer of the family with full attention, which transformers has; what is around it is
written out from DeepSeek-V3 (section 2.2, equations 21 to 23), with the order of the two halves as vLLM reads Qwen's
checkpoints: the embedding first. h is what the final norm gives, and norms multiply by 1 + weight.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tiny_models
import torch
import transformers
from families.qwen3_5_text import SIZES
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from variants import Variant

Floats = NDArray[np.float32]
_OWN = ("mtp.layers.", "mtp.norm")
_AROUND = ("mtp.fc.weight", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight")


ATTENDING = Variant("qwen3_5_text", {"layer_types": ["full_attention"] * 4}, sizes=SIZES)  # all can be taken back


def save(variant: str | Variant, directory: Path, *, seed: int = 0) -> Path:
    """Write a variant of :mod:`tiny_models` with ``mtp.*`` beside it, drawn like all others."""
    tiny_models.save_variant(tiny_models.VARIANTS[variant] if isinstance(variant, str) else variant, directory, seed=3)
    path = directory / "model.safetensors"
    torch.manual_seed(seed)
    layer = transformers.AutoModelForCausalLM.from_config(_one_layer(directory)).eval()
    for parameter_name, parameter in layer.named_parameters():
        tiny_models.draw(parameter_name, parameter.data)
    with TemporaryDirectory() as folder:
        layer.save_pretrained(folder)
        stored = load_file(Path(folder) / "model.safetensors")
    own = {
        f"mtp.{key.removeprefix('model.')}": value
        for key, value in stored.items()
        if key.startswith(("model.layers.", "model.norm"))
    }
    hidden = layer.config.hidden_size
    for key in ("pre_fc_norm_hidden", "pre_fc_norm_embedding"):
        own[f"mtp.{key}.weight"] = torch.randn(hidden) * 0.3
    own["mtp.fc.weight"] = torch.randn(hidden, 2 * hidden) / (2 * hidden) ** 0.5
    save_file(load_file(path) | own, path, {"format": "pt"})
    return directory


def _one_layer(directory: Path) -> transformers.PreTrainedConfig:
    content = json.loads((directory / "config.json").read_text())
    changed = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    return transformers.CONFIG_MAPPING[content["model_type"]](**(content | changed))


@dataclass
class Oracle:
    """transformers' model of a checkpoint, and its layer that predicts a token further."""

    directory: Path

    def __post_init__(self) -> None:
        transformers.logging.set_verbosity_error()
        tensors = load_file(self.directory / "model.safetensors")
        self.model = transformers.AutoModelForCausalLM.from_pretrained(self.directory, dtype=torch.float32).eval()
        own = {f"model.{key.removeprefix('mtp.')}": value for key, value in tensors.items() if key.startswith(_OWN)}
        own["model.embed_tokens.weight"] = self.model.get_input_embeddings().weight.data
        own["lm_head.weight"] = own["model.embed_tokens.weight"].clone()
        with TemporaryDirectory() as folder:
            _one_layer(self.directory).save_pretrained(folder)
            save_file(own, Path(folder) / "model.safetensors", {"format": "pt"})
            self.layer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().model
        self.tensors = {key: value.float() for key, value in tensors.items() if key.startswith("mtp.")}

    def hidden(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """What the model's final norm gives, (length, hidden)."""
        with torch.inference_mode():
            return self.model.model(torch.from_numpy(tokens)[None], use_cache=False).last_hidden_state[0]

    def further(self, tokens: NDArray[np.int64], hidden: torch.Tensor) -> tuple[Floats, torch.Tensor]:
        """Logits after ``tokens``, each a token after the one that its row of ``hidden`` is of, and h' beside them."""
        with torch.inference_mode():
            embedded = self.model.get_input_embeddings()(torch.from_numpy(tokens))
            both = [self._norm("pre_fc_norm_embedding", embedded), self._norm("pre_fc_norm_hidden", hidden)]
            x = torch.cat(both, -1) @ self.tensors["mtp.fc.weight"].T
            found = self.layer(inputs_embeds=x[None], use_cache=False).last_hidden_state[0]
            return self.model.lm_head(found).numpy(), found

    def proposed(self, text: Sequence[int], count: int, start: int = 0) -> list[int]:
        """The likeliest tokens after ``text``, each given those before it, computed from nothing.

        The layer sees what was given from token ``start`` on.
        """
        tokens, hidden = list(text), self.hidden(np.array(text[:-1]))
        for _ in range(count):
            logits, found = self.further(np.array(tokens[start + 1 :]), hidden[start:])
            tokens.append(int(logits[-1].argmax()))
            hidden = torch.cat([hidden, found[-1:]])
        return tokens[len(text) :]

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        epsilon = self.model.config.rms_norm_eps
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
        return scaled * (1 + self.tensors[f"mtp.{name}.weight"])


def train(directory: Path, prompts: torch.Tensor, length: int, steps: int) -> None:
    """Train the layer of a checkpoint on what its model says after ``prompts`` (texts, tokens), and write it there."""
    oracle, before = Oracle(directory), prompts.shape[1]
    with torch.no_grad():
        tokens = oracle.model.generate(prompts, max_new_tokens=length, do_sample=False, eos_token_id=None)
        hidden = oracle.model.model(tokens, use_cache=False).last_hidden_state
        embedded = oracle.model.get_input_embeddings()(tokens)
    around = {key: torch.nn.Parameter(oracle.tensors[key].clone()) for key in _AROUND}
    oracle.tensors = dict(around)
    inside = [parameter for name, parameter in oracle.layer.named_parameters() if "embed" not in name]
    optimizer = torch.optim.Adam([*around.values(), *inside], lr=2e-3)
    for _ in range(steps):
        both = [
            oracle._norm("pre_fc_norm_embedding", embedded[:, 1:-1]),
            oracle._norm("pre_fc_norm_hidden", hidden[:, :-2]),
        ]
        x = torch.cat(both, -1) @ around["mtp.fc.weight"].T
        logits = oracle.model.lm_head(oracle.layer(inputs_embeds=x, use_cache=False).last_hidden_state)
        said = slice(before - 2, None)  # the prompts are random
        loss = torch.nn.functional.cross_entropy(logits[:, said].flatten(0, 1), tokens[:, 2:][:, said].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = {f"mtp.{key}": value for key, value in oracle.layer.state_dict().items() if "embed" not in key}
    trained |= {key: parameter.data for key, parameter in around.items()}
    path = directory / "model.safetensors"
    save_file(load_file(path) | trained, path, {"format": "pt"})
