"""From a text's tokens to its embedding, as sentence-transformers' modules say it: pooled, projected, normalized.

``modules.json`` lists them, each with a folder of its own: Transformer, Pooling, Dense, Normalize. Pooling's ways are
sentence-transformers' own: the mean is over the tokens that the mask marks, ``lasttoken`` is the last of these,
``weightedmean`` weighs each by its place, counted from 1 (Muennighoff, SGPT, 2022, equation 2). Several ways are
joined, in the order in which they are named here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.errors import InputError
from edgepress.schema import parse_json, read_bytes, read_object

if TYPE_CHECKING:
    import torch

MODULES = "modules.json"
POOLED = "sentence_embedding"

_COPY = "copy it again from where the checkpoint came from"
_WAYS = {  # pooling_mode_… of its config.json
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}
_FUNCTIONS = {
    "torch.nn.modules.activation.Tanh": "Tanh",
    "torch.nn.modules.activation.ReLU": "ReLU",
    "torch.nn.modules.activation.GELU": "GELU",
    "torch.nn.modules.linear.Identity": "Identity",
}
_SMALL = 1e-9  # what the number of tokens is at least, so that nothing is divided by 0


def transformer_folder(folder: Path) -> Path:
    """Where the model itself is, of a folder with modules.json."""
    return folder / next((path for kind, path in _modules(folder) if kind == "Transformer"), "")


def embedder(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """``model`` with what modules.json says comes after it: from its inputs to ``sentence_embedding``.

    Raises:
        InputError: a module is of a kind that is not known here, or its files are damaged.

    """
    import torch

    steps = [_step(kind, folder / path) for kind, path in _modules(folder) if kind != "Transformer"]

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.after = torch.nn.ModuleList(steps)

        def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            values = self.model(**inputs).last_hidden_state  # (batch, sequence, width)
            for step in self.after:
                values = step(values, inputs["attention_mask"])
            return {POOLED: values}

    return Embedder().eval()


def _modules(folder: Path) -> list[tuple[str, str]]:
    """The kind of each module, and the folder that it has within ``folder``."""
    path = folder / MODULES
    if not path.is_file():
        return [("Transformer", ""), ("Pooling", ""), ("Normalize", "")]
    listed = parse_json(read_bytes(path, _COPY), path, _COPY)
    found = []
    for one in listed if isinstance(listed, list) else [None]:
        kind, inner = (one.get("type"), one.get("path")) if isinstance(one, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(inner, str) or Path(inner).is_absolute() or ".." in inner:
            raise InputError(f"{path} is no list of modules with a type and a path in this folder; {_COPY}")
        found.append((kind.rpartition(".")[2], inner))
    if [kind for kind, _ in found[:2]] != ["Transformer", "Pooling"]:
        raise InputError(
            f"{path} begins with {', '.join(kind for kind, _ in found[:2]) or 'nothing'}, and Transformer and Pooling "
            "are what can be exported; write a function that loads it and name that as package.module:function"
        )
    return found


def _step(kind: str, folder: Path) -> torch.nn.Module:
    if kind == "Pooling":
        return _pooling(_ways(folder))
    if kind == "Normalize":
        return _normalize()
    if kind == "Dense":
        return _dense(folder)
    raise InputError(
        f"{folder}: a module of the kind {kind}; Pooling, Dense and Normalize are known. Write a function that loads "
        "the model and name that as package.module:function"
    )


def _ways(folder: Path) -> Sequence[str]:
    path = folder / "config.json"
    if not path.is_file() or not folder.name.endswith("Pooling"):
        return ("mean",)
    config = read_object(path, _COPY)
    named = config.get("pooling_mode")
    if named is not None:
        ways = [named] if isinstance(named, str) else list(named) if isinstance(named, list) else [named]
    else:
        ways = [way for key, way in _WAYS.items() if config.get(f"pooling_mode_{key}") is True]
    unknown = [way for way in ways if way not in _WAYS.values()]
    if unknown or not ways:
        raise InputError(
            f"{path} pools by {', '.join(map(str, unknown)) or 'nothing'}; known are {', '.join(_WAYS.values())}"
        )
    return [str(way) for way in ways]


def _pooling(ways: Sequence[str]) -> torch.nn.Module:
    import torch

    class Pooling(torch.nn.Module):
        def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            marked = mask.unsqueeze(-1).to(values.dtype)  # (batch, sequence, 1)
            return torch.cat([_pooled(way, values, marked) for way in ways], -1)

    return Pooling()


def _pooled(way: str, values: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    """One way from (batch, sequence, width) to (batch, width)."""
    import torch

    if way == "cls":
        return values[:, 0]
    if way == "max":
        return values.masked_fill(marked == 0, -1e9).amax(1)
    if way == "lasttoken":
        places = torch.arange(values.shape[1], device=values.device)[None]  # (1, sequence)
        last = (places * marked[..., 0].to(places.dtype)).argmax(1)
        return values.gather(1, last[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]
    if way == "weightedmean":
        marked = marked * torch.arange(1, values.shape[1] + 1, dtype=values.dtype)[None, :, None]
    count = marked.sum(1).clamp(min=_SMALL)  # (batch, 1)
    return (values * marked).sum(1) / (count.sqrt() if way == "mean_sqrt_len" else count)


def _normalize() -> torch.nn.Module:
    import torch

    class Normalize(torch.nn.Module):
        def forward(self, values: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(values, dim=-1)

    return Normalize()


def _dense(folder: Path) -> torch.nn.Module:
    import torch
    from safetensors.torch import load_file

    config, file = read_object(folder / "config.json", _COPY), folder / "model.safetensors"
    if not file.is_file():
        raise InputError(f"{folder} has no model.safetensors; convert its weights with safetensors, or {_COPY}")
    weights: Mapping[str, torch.Tensor] = load_file(file)
    function = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if function not in _FUNCTIONS or "linear.weight" not in weights:
        raise InputError(f"{folder}: a Dense module with {function}; {', '.join(_FUNCTIONS)} are known")
    height, width = weights["linear.weight"].shape
    after: Any = getattr(torch.nn, _FUNCTIONS[str(function)])()

    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(width, height, bias="linear.bias" in weights)
            self.load_state_dict({name: tensor.float() for name, tensor in weights.items()})

        def forward(self, values: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = after(self.linear(values))
            return found

    return Dense()
