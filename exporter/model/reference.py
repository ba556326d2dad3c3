"""The checkpoint's own model: transformers' implementation in float32, with one module's weights in memory at a time.

Exported graphs are compared with it. Needs torch and transformers, which nothing else in an export imports.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.model.architectures import architecture, model_types
from edgepress.exporter.model.reading import resolve_model
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.stored import to_float32
from edgepress.schema import with_infinity

if TYPE_CHECKING:
    import torch

Weights = Callable[[str], NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]

_KEEP_BYTES = 2 << 30  # float32 weights that stay in memory between calls
_READ_ELEMENTS = 1 << 22


class Reference:
    """A causal language model whose weights are read from its checkpoint when a module needs them.

    The model is made without weights; each module that holds some reads them just before its forward pass and drops
    them after it, so that peak memory is one tensor and the activations. Models of at most 2 GiB in float32 are read
    once and kept; ``keep`` overrides that. ``threads`` are torch's, all cores' when None. ``weights`` is asked first
    for a tensor, by its name in the checkpoint, and the checkpoint when that raises KeyError: put a bundle's
    dequantized weights there, and what still differs from the bundle is its graph.

    Raises:
        InputError: torch or transformers is missing, or the checkpoint lacks a tensor that the model needs.

    """

    def __init__(
        self,
        model: str | Path | Checkpoint,
        *,
        revision: str | None = None,
        weights: Weights | None = None,
        keep: bool | None = None,
        threads: int | None = None,
    ) -> None:
        torch, transformers = _libraries()
        self._torch, self._threads, self._one_at_a_time = torch, threads, threading.Lock()
        named = model if isinstance(model, Checkpoint) else Checkpoint.open(resolve_model(str(model), revision))
        self._checkpoint: Checkpoint = named
        self._weights = weights
        self._shapes = {name: tensor.shape for name, tensor in self._checkpoint.tensors.items()}
        check_known(self._checkpoint)
        kind = str(self._checkpoint.config["model_type"])
        self._made_of: dict[str, _MadeOf] = {}  # parameters that are made of several tensors, or of a part of one
        self._other_names = architecture(kind).other_names if kind in model_types() else {}
        config = _read_config(transformers, self._checkpoint)
        with _parameters_without_memory(torch, transformers):
            self._model = transformers.AutoModelForCausalLM.from_config(
                config,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation=_attention(transformers, config),
            )
        self._model.eval().requires_grad_(False)
        self._fit_widths()
        _fit_gpt2_heads(torch, self._model, self._checkpoint, self._shapes)
        nbytes = sum(4 * parameter.numel() for parameter in self._model.parameters())
        self._keep = nbytes <= _KEEP_BYTES if keep is None else keep
        self._kept: dict[str, Any] = {}  # parameters, by their tensor
        self._install(self._checkpoint_names())
        self._read_buffers()

    @property
    def vocab_size(self) -> int:
        """How many tokens it gives logits of."""
        return int(self._model.config.vocab_size)

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (length, vocabulary) of ``tokens`` (length,); row i predicts token i + 1."""
        with self._one_at_a_time, self._torch.inference_mode():
            if self._threads is not None:
                self._torch.set_num_threads(self._threads)  # of the calling thread
            ids = self._torch.from_numpy(np.asarray(tokens, np.int64))[None]
            logits: NDArray[np.float32] = self._model(input_ids=ids, use_cache=False).logits[0].numpy()
        return logits

    def _fit_widths(self) -> None:
        """Give the projections of each MLP the shapes of the checkpoint, where its config says that they differ."""
        if isinstance(self._checkpoint.config.get(_width_key(self._checkpoint)), list):
            names = self._checkpoint_names()
            shapes = {name: self._shapes[tensor] for name, tensor in names.items() if tensor in self._shapes}
            for module_name, module in self._model.named_modules():
                _fit_shapes(self._torch, module_name, module, "", shapes)

    def _checkpoint_names(self) -> dict[str, str]:
        """Return the checkpoint's name of each of the model's parameters.

        Tied parameters are one object under several names; checkpoints without a head leave the base prefix out.
        """
        prefix = f"{self._model.base_model_prefix}."
        same: dict[int, list[str]] = {}
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            same.setdefault(id(parameter), []).append(name)
        found: dict[str, str] = {}
        for names in same.values():
            candidates = [*names, *(name.removeprefix(prefix) for name in names)]
            candidates += [
                theirs + name.removeprefix(ours)
                for name in names
                for ours, theirs in self._other_names.items()
                if name.startswith(ours)
            ]
            tensor = next((candidate for candidate in candidates if candidate in self._shapes), None)
            if tensor is None:
                tensor = self._converted(names[0])
            found |= dict.fromkeys(names, tensor)
        return found

    def _converted(self, name: str) -> str:
        """The tensor of a parameter that transformers calls otherwise than checkpoints do, or makes of several."""
        if not self._made_of:
            self._made_of = _conversions(self._model, list(self._shapes))
        made_of = self._made_of.get(name)
        if made_of is None:
            raise InputError(
                f"{self._checkpoint.directory} has no tensor {name}, which the reference model needs; "
                "is the checkpoint complete?"
            )
        return name if made_of.converter is not None else made_of.tensors[""][0]

    def _read_buffers(self) -> None:
        """Fill what is stored and is no parameter, as the corrections of routers are."""
        parameters = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        stored = [name for name in self._model.state_dict() if name not in parameters]
        for name in stored:
            tensor = name if name in self._shapes else self._converted(name)
            buffer = self._model.get_buffer(name)
            buffer.copy_(self._torch.from_numpy(self._read(tensor, tuple(buffer.shape))))

    def _install(self, names: dict[str, str]) -> None:
        """Make every module that has parameters of its own read them before and drop them after its forward pass.

        The kernel of a convolution, Mamba's projection of steps and AltUp's own scale are read and dropped with the
        module that holds them: they may be used without a call.
        """
        for module_name, module in self._model.named_modules():
            own = {key: names[f"{module_name}.{key}".lstrip(".")] for key in _own_parameters(module)}
            if own:
                in_parent = isinstance(module, self._torch.nn.Conv1d) or module_name.endswith((".dt_proj", ".altup"))
                caller = self._model.get_submodule(module_name.rpartition(".")[0]) if in_parent else module
                caller.register_forward_pre_hook(self._loader(module, own))
                if not self._keep:
                    caller.register_forward_hook(partial(_drop, module))

    def _loader(self, module: torch.nn.Module, own: dict[str, str]) -> Callable[[torch.nn.Module, object], None]:
        def load(_caller: torch.nn.Module, _inputs: object) -> None:
            for key, tensor in own.items():
                parameter = module.get_parameter(key)
                if parameter.is_meta:
                    setattr(module, key, self._parameter(tensor, tuple(parameter.shape)))

        return load

    def _parameter(self, tensor: str, shape: tuple[int, ...]) -> torch.nn.Parameter:
        parameter: torch.nn.Parameter | None = self._kept.get(tensor)
        if parameter is None:
            value = self._torch.from_numpy(self._read(tensor, shape))
            parameter = self._torch.nn.Parameter(value, requires_grad=False)
            assert parameter is not None
            if self._keep:
                self._kept[tensor] = parameter
        return parameter

    def _read(self, tensor: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        value = self._stored(tensor)
        if value.shape != shape:
            raise InputError(f"{tensor} has shape {value.shape}, and the reference model asks for {shape}")
        return np.require(value, np.float32, ["C", "W"])

    def _stored(self, tensor: str) -> NDArray[np.float32]:
        """A tensor of the checkpoint, or what was given instead; a parameter made of several."""
        made_of = self._made_of.get(tensor)
        if made_of is not None and made_of.converter is not None:
            return made_of.value(tensor, self._stored)
        with suppress(KeyError):
            if self._weights is not None:
                return self._weights(tensor)
        stored = self._checkpoint.tensors[tensor]
        shape = stored.shape
        if not shape:  # a number, as xIELU has
            return to_float32(stored.read(0, stored.nbytes), stored.dtype).reshape(())
        whole = np.empty(shape, np.float32)
        step = max(1, _READ_ELEMENTS // math.prod(shape[1:]))
        for start in range(0, shape[0], step):  # the stored bytes of a piece, not of the whole, are in memory beside it
            stop = min(start + step, shape[0])
            whole[start:stop] = self._checkpoint.rows(tensor, start, stop)
        return whole


@dataclass(frozen=True)
class _MadeOf:
    """What a parameter is made of: checkpoint tensors, by the pattern of ``converter`` that they match.

    Without a converter it is one tensor that has another name in checkpoints.
    """

    converter: Any
    tensors: dict[str, list[str]]

    def value(self, name: str, read: Weights) -> NDArray[np.float32]:
        """The parameter called ``name``, by transformers' own operations."""
        import torch

        made = {
            pattern: [torch.from_numpy(read(tensor)) for tensor in tensors] for pattern, tensors in self.tensors.items()
        }
        for operation in self.converter.operations:
            made = operation.convert(
                made, source_patterns=self.converter.source_patterns, target_patterns=self.converter.target_patterns
            )
        found = next(value for target, value in made.items() if target in name)
        whole: NDArray[np.float32] = (found[0] if isinstance(found, list) else found).numpy()
        return whole


def _conversions(model: Any, tensors: Sequence[str]) -> dict[str, _MadeOf]:
    """What each parameter is made of, as transformers would load the checkpoint whose ``tensors`` these are."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(model)
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    renamings: list[Any] = [transform for transform in transforms if not isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known = model.state_dict()
    found: dict[str, _MadeOf] = {}
    for tensor in sorted(tensors, key=dot_natural_key):
        name, pattern = rename_source_key(tensor, renamings, converters, model.base_model_prefix, known)
        made_of = found.setdefault(name, _MadeOf(by_pattern.get(pattern or ""), {}))
        made_of.tensors.setdefault(pattern or "", []).append(tensor)
    return found


def check_known(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose family transformers has no class for: there is nothing to hold a graph against.

    Raises:
        InputError: it is such a checkpoint, or torch or transformers is missing.

    """
    _, transformers = _libraries()
    kind = checkpoint.config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise InputError(
            f"{checkpoint.directory}: transformers {transformers.__version__} has no class for model_type {kind!r}, so "
            f"there is nothing to compare with; export without --check, or install a transformers that has it"
        )


def _read_config(transformers: Any, checkpoint: Checkpoint) -> Any:
    """The checkpoint's config; sizes that transformers has no words for are others at first, and fitted later."""
    values = dict(checkpoint.config)
    key = _width_key(checkpoint)
    others = {key: max(value)} if isinstance(value := values.get(key), list) and value else {}
    if _has_gpt2_heads(checkpoint):
        others["n_head"] = 1  # any divisor of the hidden size
    hidden = values.get("hidden_size")
    if (checked := _checked_hidden(values)) is not None:
        others["hidden_size"] = checked
    if not others and checkpoint.text_of is None and not checkpoint.note:
        return transformers.AutoConfig.from_pretrained(checkpoint.directory, trust_remote_code=False)
    config = transformers.CONFIG_MAPPING[values["model_type"]].from_dict(with_infinity(values | others))
    if checked is not None:
        config.hidden_size = hidden
    return config


def _attention(transformers: Any, config: Any) -> str:
    """How attention is computed: as fast as the class can, and models without attention take no word for that."""
    model = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return "sdpa" if model._supports_sdpa else "eager"


def _checked_hidden(values: Mapping[str, object]) -> int | None:
    """A hidden size that a check of transformers' configs takes where it refuses the model's own, None elsewhere.

    It holds the hidden size, or longrope's factors, against the number of heads, though ``head_dim`` says otherwise;
    the models compute with ``head_dim``.
    """
    names = ("hidden_size", "num_attention_heads", "head_dim")
    sizes = [value for name in names if isinstance(value := values.get(name), int)]
    if len(sizes) < len(names):
        return None
    hidden, heads, head_dim = sizes
    refused = hidden % heads != 0 or (values["model_type"] == "phi3" and heads * head_dim != hidden)
    return heads * head_dim if refused else None


def _width_key(checkpoint: Checkpoint) -> str:
    """The config's key of the width of its MLPs, which may list one for each layer."""
    kind = str(checkpoint.config.get("model_type"))
    return architecture(kind).width_key if kind in model_types() else ""


def _has_gpt2_heads(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.get("model_type") == "gpt2" and isinstance(checkpoint.config.get("head_dim"), int)


def _fit_gpt2_heads(torch: Any, model: Any, checkpoint: Checkpoint, shapes: Shapes) -> None:
    """Where GPT-2 has lost heads, its config says how wide one is, which transformers does not read."""
    if not _has_gpt2_heads(checkpoint):
        return
    head_dim, heads = (int(str(checkpoint.config[key])) for key in ("head_dim", "n_head"))
    prefix = f"{model.base_model_prefix}."
    for module_name, module in model.named_modules():
        if module_name.endswith(".attn"):
            if model.config.scale_attn_weights:
                module.scaling *= (module.head_dim / head_dim) ** 0.5
            module.head_dim, module.num_heads, module.split_size = head_dim, heads, heads * head_dim
        elif ".attn." in module_name:
            _fit_shapes(torch, module_name, module, prefix, shapes)


def _fit_shapes(torch: Any, module_name: str, module: Any, prefix: str, shapes: Shapes) -> None:
    """Give a module's own parameters the shapes of their tensors."""
    for key, parameter in _own_parameters(module).items():
        name = f"{module_name}.{key}"
        shape = shapes.get(name) or shapes.get(name.removeprefix(prefix))
        if shape is not None and shape != tuple(parameter.shape):
            setattr(module, key, torch.nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False))
            if hasattr(module, "nf"):  # GPT-2's Conv1D keeps how many features it gives
                module.nf = shape[-1]


def _drop(module: torch.nn.Module, _caller: torch.nn.Module, _inputs: object, _output: object) -> None:
    for key, parameter in _own_parameters(module).items():
        setattr(module, key, type(parameter)(parameter.detach().to("meta"), requires_grad=False))


def _own_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return dict(module.named_parameters(recurse=False))


@contextmanager
def _parameters_without_memory(torch: Any, transformers: Any) -> Iterator[None]:
    """Put every parameter that is made within on the meta device, where it has a shape and no memory.

    None is drawn: without memory that takes longer than with it. Buffers stay real: rotary frequencies are computed
    when a module is made. (accelerate.init_empty_weights does the same.) Not thread-safe: it replaces functions of
    torch and transformers for as long as the block runs.
    """
    register = torch.nn.Module.register_parameter

    def register_meta(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        register(module, name, parameter)

    draws = [name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")]
    with (
        _replaced(torch.nn.Module, register_parameter=register_meta),
        _replaced(torch.nn.init, **dict.fromkeys(draws, lambda tensor, *_, **__: tensor)),
        _replaced(transformers.PreTrainedModel, initialize_weights=lambda _model: None),
    ):
        yield


@contextmanager
def _replaced(owner: Any, **functions: Callable[..., object]) -> Iterator[None]:
    """Put functions in the place of those of a module or class."""
    before = {name: getattr(owner, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(owner, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise InputError(
            f"the reference model needs {error.name}, which is not installed: pip install 'edgepress[export]'"
        ) from error
    return torch, transformers
