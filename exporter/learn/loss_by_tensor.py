"""How much accuracy, and how many bytes, each tensor of a bundle costs: what ``edgepress blame`` does.

The bundle's stored weights, dequantized, are the base; one group at a time is replaced by its full-precision weights,
and the KL against the full-precision model falls by what that group costs. Computed in float32 by the description of
the model (:mod:`edgepress.exporter.model.network`), from the changed layer on
(:mod:`edgepress.exporter.streams.variants`): the loss by int8 activations at run time is not included. Savings do not
add up to the whole: groups interact, and weights that were rounded to correct the errors of others (gptq, distill) may
lose more when only those others are restored.

**Bundles with transforms.** A restored weight is the full-precision one in the basis of the stored ones. A transform
that needs no calibration (hadamard) is repeated from the checkpoint. One that does (awq, smoothquant) cannot be, as its
scales are not in the bundle; but it only moves scales between the weights of one layer, which computes the same. So a
layer is restored as a whole, without those scales, and single projections are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.bundle.manifest import Manifest, find_problems, read_manifest
from edgepress.errors import InputError
from edgepress.exporter.bundle import files
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.learn.calibration.run import given_tokens, use_threads, written_tokens
from edgepress.exporter.methods.kinds import Transform, describe_methods, load_method, method_options
from edgepress.exporter.methods.tasks import LayerTask
from edgepress.exporter.model import operations
from edgepress.exporter.model.description import layer_linears, layer_weights
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.reading import first_token, read_decoder, resolve_model
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.layout import region_bytes
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.plan.plan import PlannedTensor
from edgepress.exporter.plan.planned import Planned
from edgepress.exporter.recipe.decisions import decisions_from_json
from edgepress.exporter.recipe.recipe import Recipe, recipe_from_json
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.store import Store
from edgepress.exporter.streams.variants import BaseRun, Change, divergences, first_layer, passes
from edgepress.terminal.progress import Progress, silent
from edgepress.terminal.tables import format_table
from edgepress.whole import whole_number


@dataclass(frozen=True)
class GroupLoss:
    """One group: its quantized tensors together.

    ``kl_saved`` is how much less the bundle loses with the group in full precision, nats a token; ``bytes_at_8_bits``
    what the group would take with 8-bit codes in the same blocks.
    """

    name: str
    schemes: tuple[str, ...]
    bytes: int
    kl_saved: float
    bytes_at_8_bits: int


@dataclass(frozen=True)
class LossByTensor:
    """The bundle's KL against the full-precision model, nats a token over ``tokens``, and its groups, worst first."""

    kl: float
    tokens: int
    groups: tuple[GroupLoss, ...]

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)


def measure_loss_by_tensor(
    bundle: str | Path,
    model: str | Path,
    *,
    revision: str | None = None,
    text: Sequence[str | Path] = (),
    group: str | None = None,
    tokens: int = 2048,
    threads: int | None = None,
    progress: Progress = silent,
) -> LossByTensor:
    """Restore each group of ``bundle`` to full precision, and measure how much KL that saves.

    ``model`` is the checkpoint that the bundle was made from, and ``revision`` which of it, if it is on the hub;
    ``text`` names the files to measure on, the model's own generations when empty.
    ``group`` is "tensor", each projection by itself, or "layer"; None is "tensor" where that is possible.

    Raises:
        InputError: the bundle is damaged or from another version, ``model`` is not its checkpoint, the text cannot be
            used, or the bundle's weights cannot be restored one by one.

    """
    for name, number, least in (("tokens", tokens, 2), ("threads", threads, 1)):
        if number is not None:
            whole_number(name, number, least=least)
    path = Path(bundle)
    planned = _open(path, Checkpoint.open(resolve_model(str(model), revision)))
    settings = replace(planned.recipe.calibration, text=tuple(map(str, text)), tokens=tokens)
    kept_out = _needing_inputs(planned.recipe)
    if group == "tensor" and kept_out:
        raise InputError(
            f"{path}: the scales of {' and '.join(kept_out)} came from calibration and are not in the bundle, so that "
            "one projection cannot be restored alone; a whole layer can: --group layer"
        )
    by_layer = group == "layer" or bool(kept_out)
    bos = first_token(planned.checkpoint, planned.decoder)
    stored = StoredWeights(path / files.DATA_FILE, planned.plan)
    with use_threads(planned.decoder, threads), TemporaryDirectory(prefix="edgepress-") as temporary:
        scratch = Path(temporary)
        chosen = given_tokens(planned, settings, bos)
        if chosen is None:
            chosen = written_tokens(planned, settings, Store(scratch), threads=threads, progress=progress)
        return _measure(planned, stored, chosen.tokens, scratch, by_layer=by_layer, progress=progress)


def _open(path: Path, checkpoint: Checkpoint) -> Planned:
    """Plan the bundle again from its manifest, and check that plan and checkpoint are the bundle's."""
    manifest = read_manifest(path)
    for problem in find_problems(path):
        raise InputError(f"{path}: {problem}; export the bundle again")
    if manifest.steps:
        raise InputError(
            f"{path} was pruned ({', '.join(str(step['name']) for step in manifest.steps[1:-1])}), and the smaller "
            "checkpoint that its weights were rounded from is not kept; blame a bundle that was not pruned"
        )
    hashes = checkpoint.source_hashes()
    for name in sorted({*hashes, *manifest.source}):
        if hashes.get(name) != manifest.source.get(name):
            raise InputError(
                f"{path} was not made from {checkpoint.directory}: {name} differs; "
                "name the checkpoint that it was made from"
            )
    try:
        recipe = decisions_from_json(manifest.decisions).applied(recipe_from_json(manifest.recipe))
    except (TypeError, KeyError) as error:
        raise _another_version(path, manifest) from error
    decoder = describe_methods(read_decoder(checkpoint), recipe)
    plan = make_plan(decoder, recipe, checkpoint.itemsize)
    planned = {
        tensor.weight.name: {part: [region.offset, region.nbytes] for part, region in tensor.regions.items()}
        for tensor in plan.tensors
    }
    if planned != {tensor["name"]: tensor["regions"] for tensor in manifest.tensors}:
        raise _another_version(path, manifest)
    return Planned(checkpoint=checkpoint, decoder=decoder, recipe=recipe, plan=plan)


def _another_version(path: Path, manifest: Manifest) -> InputError:
    return InputError(
        f"{path} was made by edgepress {manifest.versions.get('edgepress', '?')}, which laid tensors out in another "
        "way; export it again"
    )


def _needing_inputs(recipe: Recipe) -> list[str]:
    """The bundle's transforms that cannot be repeated from the checkpoint."""
    return [name for name in recipe.before if _transform(name).needs_inputs]


def _transform(name: str) -> Transform:
    method = load_method(name)
    if not isinstance(method, Transform):
        raise TypeError(f"{name} is in `before` and no transform")
    return method


@dataclass(frozen=True)
class _Group:
    """Quantized tensors that are restored together, and the change that does it."""

    name: str
    tensors: tuple[PlannedTensor, ...]
    start: int
    change: Change


def _measure(
    planned: Planned,
    stored: StoredWeights,
    tokens: NDArray[np.int64],
    scratch: Path,
    *,
    by_layer: bool,
    progress: Progress,
) -> LossByTensor:
    checkpoint, decoder = planned.checkpoint, planned.decoder
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def read_full(weight: Weight) -> Tensor:
        return torch.from_numpy(read_weight(checkpoint, weight)).to(device)

    def read_stored(weight: Weight) -> Tensor:
        return torch.from_numpy(stored.value(weight)).to(device)

    folders = [scratch / name for name in ("reference", "base")]
    for folder in folders:
        folder.mkdir()
    reference = BaseRun(read_decoder(checkpoint), read_full, tokens, folders[0], device)
    base = BaseRun(decoder, read_stored, tokens, folders[1], device)
    groups = _groups(planned, base, read_full, by_layer=by_layer)
    total = 2 * len(decoder.layers) + 1 + sum(passes(decoder, group.start) for group in groups)
    with progress(total, "putting tensors back", " layers") as advance:
        reference.run(advance)
        base.run(advance)
        (kl,) = divergences(base, reference, len(decoder.layers), [{}], advance)
        without: dict[str, float] = {}
        for start in sorted({group.start for group in groups}):
            here = [group for group in groups if group.start == start]
            found = divergences(base, reference, start, [group.change for group in here], advance)
            without |= {group.name: value for group, value in zip(here, found, strict=True)}
    losses = [_group_loss(group, kl - without[group.name]) for group in groups]
    return LossByTensor(kl, tokens.size, tuple(sorted(losses, key=lambda entry: -entry.kl_saved)))


def _groups(planned: Planned, base: BaseRun, read: operations.Values, *, by_layer: bool) -> list[_Group]:
    """Every quantized tensor in one group; embedding and head are groups of their own."""
    decoder, plan = planned.decoder, planned.plan
    original = _originals(planned, base, read)
    groups = [
        _Group(
            tensor.weight.name, (tensor,), first_layer(decoder, [tensor.weight.name]), _put_back(tensor.weight, read)
        )
        for tensor in plan.tensors
        if tensor.scheme is not None and tensor.weight.kind in ("embedding", "head")
    ]
    for index, layer in enumerate(decoder.layers):
        linears = [linear for linear in layer_linears(layer) if plan.of(linear.weight).scheme is not None]
        if by_layer and linears:
            tensors = tuple(plan.of(linear.weight) for linear in linears)
            change = {weight.name: _from(original, index, weight.name) for weight in layer_weights(layer)}
            groups.append(_Group(f"layers.{index}", tensors, index, change))
        elif linears:
            groups += [
                _Group(linear.weight.name, (plan.of(linear.weight),), index, _of_linear(linear, original, index))
                for linear in linears
            ]
    return groups


def _originals(planned: Planned, base: BaseRun, read: operations.Values) -> Callable[[int], dict[str, Tensor]]:
    """The full-precision weights of a layer in the basis of the stored ones, by name; the last layer's are kept."""
    transforms = [_transform(name) for name in planned.recipe.before]

    @lru_cache(maxsize=1)
    def layer(index: int) -> dict[str, Tensor]:
        described = planned.decoder.layers[index]
        task = LayerTask(
            index=index,
            layer=described,
            schemes=planned.plan.schemes,
            rotaries={},
            weights={weight.name: read(weight) for weight in layer_weights(described)},
            inputs=base.streams[index],
            reference_inputs=None,
            reference_outputs=None,
            device=torch.device(base.device),
        )
        for transform in transforms:
            if not transform.needs_inputs:
                transform.fold(task, method_options(transform, planned.recipe))
        return task.weights

    return layer


def _put_back(weight: Weight, read: operations.Values) -> Change:
    return {weight.name: lambda: read(weight)}


def _from(original: Callable[[int], dict[str, Tensor]], index: int, name: str) -> Callable[[], Tensor]:
    return lambda: original(index)[name]


def _of_linear(linear: Linear, original: Callable[[int], dict[str, Tensor]], index: int) -> Change:
    """A projection with its bias: bias correction puts into it what rounding the weight changed."""
    weights = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    return {weight.name: _from(original, index, weight.name) for weight in weights}


def _group_loss(group: _Group, saved: float) -> GroupLoss:
    return GroupLoss(
        name=group.name,
        schemes=tuple(dict.fromkeys(tensor.stored_as for tensor in group.tensors)),
        bytes=sum(tensor.bytes_after for tensor in group.tensors),
        kl_saved=saved,
        bytes_at_8_bits=sum(
            sum(region_bytes(tensor.weight.shape, replace(tensor.scheme, bits=8), tensor.form).values())
            for tensor in group.tensors
            if tensor.scheme is not None
        ),
    )


def format_loss_by_tensor(found: LossByTensor) -> str:
    """The groups as a table, and what the bundle loses in all."""
    rows = [
        (
            entry.name,
            " and ".join(entry.schemes),
            f"{entry.bytes / 1e6:,.3f}",
            f"{entry.kl_saved:.6f}",
            f"{entry.kl_saved / found.kl:.1%}" if found.kl > 0 else "",
            f"{entry.kl_saved / (entry.bytes / 1e6):.4f}",
            f"{entry.bytes_at_8_bits / 1e6:,.3f}",
        )
        for entry in found.groups
    ]
    header = ("put back", "stored as", "MB", "KL saved", "share", "KL per MB", "MB at 8 bits")
    return "\n".join(
        [
            format_table(header, rows, right=(2, 3, 4, 5, 6)),
            "",
            f"the bundle's KL from the full-precision model: {found.kl:.6f} nats a token on {found.tokens:,} tokens "
            "(weights alone: float32 activations)",
        ]
    )
