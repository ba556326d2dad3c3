"""LoRA adapters as peft saves them, merged into a checkpoint's weights while their rows are read.

``W + s · B A`` (Hu et al. 2021, equation 3), s = alpha / r, or alpha / sqrt(r) where it is rank-stabilised
(Kalajdzievski 2023); with magnitudes m (DoRA, Liu et al. 2024, equation 5) each row is then scaled to the length m.
What is added to a row needs that row of B and the whole of A, which is small: no weight is ever whole in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgepress.disk.files import sha256_file
from edgepress.disk.hub_layout import resolve_inside
from edgepress.errors import InputError
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.packed import PackedTensor, packed_as
from edgepress.exporter.source.stored import StoredTensor, read_header
from edgepress.schema import read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of peft's names
_A, _B, _MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
_EMBEDDING_A, _EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
_TENSOR = re.compile(
    rf"(?P<module>.+)\.(?P<role>{_A}|{_B}|{_EMBEDDING_A}|{_EMBEDDING_B}|{_MAGNITUDE})(\.default)?(\.weight)?"
)
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")  # in the names of tensors that are whole
# Keys of adapter_config.json that change what a merge computes, and the values that it computes right.
_ONLY: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "lora_bias": (False,),
    "use_qalora": (False,),
    "target_parameters": ([],),
    "trainable_token_indices": ([], {}),
    "layer_replication": ([],),
    "alora_invocation_tokens": ([],),
}
_CONVERTED = ("pissa", "olora", "corda", "loftq", "lora_ga")  # these train another base model than the published one


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to a matrix (rows, columns): ``scale · b a``, with a (rank, columns) and b (rows, rank)."""

    a: StoredTensor
    b: StoredTensor
    scale: float

    @property
    def rank(self) -> int:
        """Rows of a, columns of b."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """One adapter: which weight of the base model each of its modules changes, and by which tensors."""

    directory: Path
    base: str
    rank: int
    transposed: bool
    scales: Mapping[str, float]  # of each module
    changes: Mapping[str, Mapping[str, StoredTensor]]  # of each module, by role
    replaced: Mapping[str, StoredTensor]  # whole tensors that it brings

    @property
    def note(self) -> str:
        """What it does, in words."""
        whole = f" and replaces {len(self.replaced)} whole" if self.replaced else ""
        of = f", made for {self.base}" if self.base else ""
        made = f"adapter {self.directory.name} (LoRA of rank {self.rank}{of})"
        return f"{made} changes {len(self.changes)} weights{whole}"

    def merged(self, tensors: Mapping[str, StoredTensor], *, tied: bool) -> dict[str, StoredTensor]:
        """The tensors of a checkpoint with those that the adapter changes in their place.

        Raises:
            InputError: it changes what the checkpoint has not, or has in another shape.

        """
        found = dict(tensors)
        for name, tensor in self.replaced.items():
            place = self._place(name, tensors, tied)
            if tensors[place].shape != tensor.shape:
                raise self._misfit(place, tensors[place], f"replaces it with {list(tensor.shape)}")
            found[place] = replace(tensor, name=place)
        for module, parts in self.changes.items():
            place = self._place(f"{module}.weight", tensors, tied)
            found[place] = self._merge(place, found[place], parts, self.scales[module])
        return found

    def factors(self, names: Collection[str]) -> dict[str, Factors]:
        """What it adds to each tensor, for a graph that computes it beside the weights: of ``names`` alone.

        Raises:
            InputError: it changes another tensor, or changes one in a way that is no product of two factors.

        """
        found = {}
        for module, parts in self.changes.items():
            name = known_as(f"{module}.weight", names)
            if name is None:
                raise InputError(
                    f"{self.directory} changes {module}, where no adapter can be taken at run time; there are slots "
                    f"for {last_words(names)}; merge it with --adapter, or export with --adapter-slots {self.directory}"
                )
            if parts.keys() != {_A, _B}:
                kind = "magnitudes (DoRA), which scale whole rows" if _MAGNITUDE in parts else "rows of an embedding"
                raise self._for_no_slot(f"{module} has {kind}")
            a, b = parts[_A], parts[_B]
            if a.shape[0] != b.shape[1] or name in found:
                twice = f", and {name} is changed twice" if name in found else ""
                raise InputError(f"{self.directory}: {module} has factors {list(b.shape)} and {list(a.shape)}{twice}")
            found[name] = Factors(a, b, self.scales[module])
        for name in self.replaced:
            beside = name.removesuffix(".weight") in self.changes
            own = " (where that is the model's own, save with save_embedding_layers=False)" if beside else ""
            raise self._for_no_slot(f"it brings {name} whole{own}")
        return found

    def _for_no_slot(self, why: str) -> InputError:
        return InputError(f"{self.directory}: {why}, and a slot adds a product of two factors; merge it with --adapter")

    def hashes(self) -> dict[str, str]:
        """SHA-256 of its two files."""
        return {f"{self.directory.name}/{name}": sha256_file(self.directory / name) for name in (CONFIG, WEIGHTS)}

    def _place(self, name: str, tensors: Mapping[str, StoredTensor], tied: bool) -> str:
        """The checkpoint's name of what the adapter calls ``name``."""
        found = known_as(name, tensors)
        if found is None:
            of = f"; it was made for {self.base}" if self.base else ""
            raise InputError(f"{self.directory} changes {name}, which the checkpoint has not{of}: name its base model")
        if tied and re.search(r"embed_tokens|lm_head|wte", found):
            raise InputError(
                f"{self.directory} changes {found}, and the model's head is tied to its embedding: it is not said "
                "whether both change; merge it with peft, save the model with an untied head, and export that"
            )
        return found

    def _merge(self, name: str, base: StoredTensor, parts: Mapping[str, StoredTensor], scale: float) -> StoredTensor:
        embedding = _EMBEDDING_A in parts
        a, b = (parts[_EMBEDDING_A], parts[_EMBEDDING_B]) if embedding else (parts[_A], parts[_B])
        transposed = embedding or self.transposed
        shape = (b.shape[0], a.shape[1])
        if base.shape != (shape[::-1] if transposed else shape) or a.shape[0] != b.shape[1]:
            raise self._misfit(name, base, f"has factors {list(b.shape)} and {list(a.shape)}")
        magnitude = parts.get(_MAGNITUDE)
        if magnitude is not None and (transposed or magnitude.shape != (base.shape[0],)):
            raise self._misfit(name, base, f"has magnitudes {list(magnitude.shape)}, for rows of a Linear alone")
        how = f"adapter {self.directory.name}"
        stored = (*(base.stored if isinstance(base, PackedTensor) else (base,)), a, b)
        return MergedTensor(
            **packed_as(name, base.shape, stored, how),
            base=base,
            a=a,
            b=b,
            magnitude=magnitude,
            scale=scale,
            transposed=transposed,
            by_columns=isinstance(base, PackedTensor) and base.by_columns,
        )

    def _misfit(self, name: str, base: StoredTensor, why: str) -> InputError:
        return InputError(
            f"{self.directory}: {name} is {list(base.shape)} in the checkpoint, and the adapter {why}; it was made for "
            "another model"
        )


@dataclass(frozen=True, kw_only=True)
class MergedTensor(PackedTensor):
    """A matrix with what an adapter adds to it: ``base + scale · b a``, or its transpose where ``transposed``."""

    own_form: ClassVar[bool] = True
    base: StoredTensor
    a: StoredTensor  # (rank, columns)
    b: StoredTensor  # (rows, rank)
    magnitude: StoredTensor | None
    scale: float
    transposed: bool

    @cached_property
    def _first(self) -> NDArray[np.float32]:
        """The factor that every row needs, (rank, columns), scaled."""
        factor = self.b.rows(0, self.b.shape[0]).T if self.transposed else self.a.rows(0, self.a.shape[0])
        return np.ascontiguousarray(factor) * np.float32(self.scale)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """See :class:`PackedTensor`."""
        columns = self.a.rows(0, self.a.shape[0])[:, start:stop].T if self.transposed else None
        second = self.b.rows(start, stop) if columns is None else columns  # (rows, rank)
        found = self.base.rows(start, stop) + second @ self._first
        if self.magnitude is None:
            return found
        lengths = np.sqrt(np.einsum("ij,ij->i", found, found, dtype=np.float64))  # (rows,)
        factors = self.magnitude.rows(start, stop) / np.maximum(lengths, np.finfo(np.float32).tiny)
        scaled: NDArray[np.float32] = found * factors.astype(np.float32)[:, None]
        return scaled

    def grid(self) -> str:
        """See :class:`PackedTensor`."""
        return "an adapter is merged into it"


def known_as(name: str, names: Collection[str]) -> str | None:
    """Which of ``names`` an adapter calls ``name``: the text model of a larger one has shorter names."""
    return next((one for one in (name, name.replace("language_model.", "")) if one in names), None)


def read_adapter(directory: Path) -> Adapter:
    """Read an adapter's config and headers; no weight yet.

    Raises:
        InputError: it is no LoRA adapter in safetensors, or asks for something that a merge cannot do.

    """
    config = _read_config(directory)
    rank = config.integer("r", 8)
    changes: dict[str, dict[str, StoredTensor]] = {}
    replaced: dict[str, StoredTensor] = {}
    for name, tensor in read_header(directory / WEIGHTS).items():
        tensor.check_readable()
        plain = name.removeprefix(_PREFIX)
        found = _TENSOR.fullmatch(plain)
        if found is not None:
            changes.setdefault(found["module"], {})[found["role"]] = tensor
        elif "lora_" in plain:
            raise InputError(f"{directory / WEIGHTS}: {name} is no tensor of LoRA or DoRA that is known")
        else:
            replaced[_WRAPPED.sub("", plain)] = tensor
    if not changes and not replaced:
        raise InputError(f"{directory / WEIGHTS} holds no tensor; save the adapter again")
    for module, parts in changes.items():
        if not {_A, _B} <= parts.keys() and not {_EMBEDDING_A, _EMBEDDING_B} <= parts.keys():
            raise InputError(f"{directory / WEIGHTS}: {module} has {', '.join(sorted(parts))}, and needs A and B")
        shapes = [tensor.shape for role, tensor in parts.items() if role != _MAGNITUDE]
        if any(len(shape) != 2 or 0 in shape for shape in shapes):
            raise InputError(f"{directory / WEIGHTS}: {module} has factors {shapes}, and needs two matrices")
    return Adapter(
        directory=directory,
        base=str(config.values.get("base_model_name_or_path") or ""),
        rank=rank,
        transposed=config.flag("fan_in_fan_out", False),
        scales={module: _scale(config, module, parts) for module, parts in changes.items()},
        changes=changes,
        replaced=replaced,
    )


def last_words(names: Collection[str]) -> str:
    """The last words of modules, as peft's ``target_modules`` has them."""
    words = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in names})
    return ", ".join(words)


def _read_config(directory: Path) -> Config:
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory; give one with {CONFIG} and {WEIGHTS}, as peft saves them")
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            why = "so it is no adapter that peft saved"
            if name == WEIGHTS and (directory / "adapter_model.bin").is_file():
                why = "and adapter_model.bin could run code when it is read: save it with peft as safetensors"
            raise InputError(f"{directory} has no {name}, {why}")
        resolve_inside(directory / name, directory)
    config = Config(read_object(directory / CONFIG, "save the adapter again"), str(directory / CONFIG))
    for key, allowed in _ONLY.items():
        value = config.values.get(key)
        if value is not None and value not in allowed:
            raise config.refuse(key, "a merge into the weights does not compute that; merge it with peft")
    start = config.values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CONVERTED):
        raise config.refuse(
            "init_lora_weights", "it was trained beside a changed base model; convert it to plain LoRA with peft"
        )
    return config


def _scale(config: Config, module: str, parts: Mapping[str, StoredTensor]) -> float:
    """What ``b a`` is multiplied by: patterns say another alpha for some modules, as peft finds them."""
    alpha, patterns = config.number("lora_alpha", 8.0), config.values.get("alpha_pattern")
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise config.refuse("alpha_pattern", "must have a number for each pattern")
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise config.refuse("alpha_pattern", f"{pattern!r} is no regular expression: {error}") from error
        if matches:
            alpha = float(value)
            break
    rank = (parts.get(_A) or parts[_EMBEDDING_A]).shape[0]
    return alpha / (rank**0.5 if config.flag("use_rslora", False) else rank)
