"""Projections in two factors: W (rows, columns) ≈ U (rows, rank) · V (rank, columns), which are fewer weights.

Truncation-aware whitening (SVD-LLM, Wang et al. 2024, section 3.1): with C = Σ x xᵀ of what goes into the projection
and its Cholesky factor L, C = L Lᵀ, the error of the outputs is Σ ‖(W − UV) x‖² = ‖(W − UV) L‖². The least of any UV
of that rank is the sum of the squared singular values of W L that are cut off (Eckart and Young 1936), and the leading
left singular vectors reach it: U = these, V = Uᵀ W. No inverse of L is needed, and what goes into U is uncorrelated.

Layers are factored in order, on what the factored ones before them give. Whether that beats fewer bits is a question
of the model: ``benchmarks/low_rank.py`` asks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.methods.kinds import Pruning, Size
from edgepress.exporter.methods.options import Option, Options, unset, whole_number
from edgepress.exporter.methods.prune_task import PruneTask
from edgepress.exporter.methods.smaller.checkpoint import NewTensor, copied, write_safetensors
from edgepress.exporter.methods.smaller.config import described
from edgepress.exporter.methods.smaller.picks import Pick, picked_tensors
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Decoder, Layer, Linear, layer_linears, layer_weights
from edgepress.exporter.model.factors import KEY
from edgepress.exporter.source.stored import StoredTensor, read_header
from edgepress.exporter.streams.streams import embedded, held, pass_layer

_SHARE = 0.5  # of the weights that stay when a recipe says nothing
_RIDGE = 1e-4  # of the mean of C's diagonal, added to it: directions that the text does not have count a little


def factor_projections(task: PruneTask, options: Options) -> None:
    """Write the checkpoint with projections in two factors."""
    factor(task, choose(task.decoder, options, task.block), int(options["tokens"]))


def check(task: PruneTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    choose(task.decoder, options, task.block)


def check_order(changed: Set[Size], options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    if "factors" in changed:
        raise InputError(
            f"low_rank is in `prune` twice, and what it has factored (match = {options['match']!r}) is not factored "
            "again; name it once"
        )


def choose(decoder: Decoder, options: Options, block: int) -> dict[str, int]:
    """The rank of each projection that is factored, by name: of those that match, the ones that become smaller.

    Raises:
        InputError: the options contradict each other, match nothing, or make nothing smaller.

    """
    share, rank, multiple = float(options["share"]), int(options["rank"]), int(options["multiple"]) or block
    if rank and share:
        raise InputError(f"[options.low_rank] has rank = {rank} and share = {share}; keep one of them")
    if not 0 <= share < 1 or rank < 0 or multiple < 1:
        raise InputError(
            f"[options.low_rank] share = {share}, rank = {rank}, multiple = {multiple}: give the share of the weights "
            "that stay, above 0 and below 1, or the rank, and a multiple of at least 1"
        )
    share = share or _SHARE
    whole = {linear.weight.name: linear.weight.shape for linear in _whole(decoder)}
    names = [name for name in whole if fnmatchcase(name, str(options["match"]))]
    if not names:
        raise InputError(
            f"[options.low_rank] match = {options['match']!r} is the name of no projection that is whole; "
            f"there are: {', '.join(list(whole)[:5]) or 'none'}, …"
        )
    found = {}
    for name in names:
        rows, columns = whole[name]
        found[name] = rank or _rank(share * rows * columns / (rows + columns), multiple)
    smaller = {name: r for name, r in found.items() if 0 < r * sum(whole[name]) < whole[name][0] * whole[name][1]}
    if not smaller:
        name = names[0]
        raise InputError(
            f"[options.low_rank] {f'rank = {rank}' if rank else f'share = {share}'} makes no projection smaller: "
            f"{name}, {whole[name][0]} × {whole[name][1]}, would have rank {found[name]}; "
            + ("give less" if found[name] else "give more, so that the rank is at least 1")
        )
    return smaller


def _rank(most: float, multiple: int) -> int:
    """The largest rank of at most ``most``, a multiple where there is one."""
    return int(most // multiple) * multiple or int(most)


def _whole(decoder: Decoder) -> list[Linear]:
    """Projections of the layers that are no factors."""
    found = [linear for layer in decoder.layers for linear in layer_linears(layer)]
    inner = [linear.inner for linear in found]
    return [linear for linear in found if linear.inner is None and linear not in inner]


def factor(task: PruneTask, ranks: Mapping[str, int], tokens: int) -> None:
    """Write the checkpoint whose projections named in ``ranks`` have two factors, of that rank."""
    old, known = task.decoder, task.checkpoint.config.get(KEY)
    config = {**task.checkpoint.config, KEY: {**(known if isinstance(known, dict) else {}), **ranks}}
    new = described(task.checkpoint, config)
    made: dict[str, StoredTensor] = {}
    lost: dict[str, float] = {}
    sequences = task.tokens(tokens)
    with (
        embedded(task.checkpoint, old, sequences, task.folder / "stream.f32", task.device) as stream,
        task.progress(len(old.layers), "factoring", " layers") as advance,
    ):
        for index in range(len(old.layers)):
            tensors, losses = _layer(task, index, new, ranks, stream)
            made |= tensors
            lost |= losses
            advance(1)
    picks = {w.name: Pick(w) for w in old.weights() if w.name not in ranks}
    rest = picked_tensors(task.checkpoint, new, picks)
    task.report["ranks"] = dict(ranks)
    task.report["output_lost"] = lost
    task.write(config=config, tensors=[*rest, *map(copied, made.values())])


def _layer(
    task: PruneTask, index: int, new: Decoder, ranks: Mapping[str, int], stream: Activations
) -> tuple[dict[str, StoredTensor], dict[str, float]]:
    """Factor one layer and put the stream through it; returns the factors' tensors, and what each pair loses."""
    layer, path = task.decoder.layers[index], task.folder / f"{index:04}.safetensors"
    read = held(task.read, layer_weights(layer))
    tensors: list[NewTensor] = []
    lost: dict[str, float] = {}
    for linear, moments in _inputs(task, layer, ranks, stream, read):
        weight = linear.weight
        u, v, share = factors(read(weight).double(), moments.second.double(), ranks[weight.name])
        lost[weight.name] = float(f"{share:.4g}")
        dtype = task.checkpoint.tensors[weight.parts[0].tensor].dtype
        tensors += [_tensor(f"{weight.name}.{letter}.weight", dtype, factor) for letter, factor in (("u", u), ("v", v))]
    write_safetensors(path, tensors)
    made = read_header(path)
    values = {
        name.removesuffix(".weight"): torch.from_numpy(tensor.rows(0, tensor.shape[0])).to(task.device)
        for name, tensor in made.items()
    }
    pass_layer(index, new, lambda w: values[w.name] if w.name in values else read(w), stream)
    return made, lost


def _inputs(
    task: PruneTask, layer: Layer, ranks: Mapping[str, int], stream: Activations, read: network.Values
) -> list[tuple[Linear, Moments]]:
    """The layer's projections that are factored, and what goes into each."""
    moments: dict[str, Moments] = {}
    wanted = [linear for linear in layer_linears(layer) if linear.weight.name in ranks]
    rotaries = network.rotaries(task.decoder, stream.shape[1], task.device)
    rotary = None if layer.attention.rope is None else rotaries[layer.attention.rope]

    def tap(linears: tuple[Linear, ...], x: Tensor) -> Tensor:
        names = [linear.weight.name for linear in linears if linear.weight.name in ranks]
        if names:
            shared = moments.setdefault(names[0], Moments(x.shape[-1], task.device))
            moments.update(dict.fromkeys(names, shared))
            shared.add(x)
        return x

    with torch.no_grad():
        for x in stream if wanted else ():
            network.layer_forward(layer, read, x, rotary, tap)
    return [(linear, moments[linear.weight.name]) for linear in wanted]


def factors(weight: Tensor, second: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """U (rows, rank), V (rank, columns) and the share of Σ ‖W x‖² that they lose.

    ``weight`` is float64 (rows, columns), ``second`` = Σ x xᵀ float64 (columns, columns).
    """
    mean = float(second.diagonal().mean()) or 1.0
    ridge = torch.eye(len(second), dtype=second.dtype, device=second.device) * (_RIDGE * mean)
    root = torch.linalg.cholesky(second + ridge)
    u, sizes, _ = torch.linalg.svd(weight @ root, full_matrices=False)
    u = u[:, :rank]
    return u, u.T @ weight, float(sizes[rank:].square().sum() / sizes.square().sum().clamp_min(1e-300))


def _tensor(name: str, dtype: str, factor: Tensor) -> NewTensor:
    values = factor.float().cpu().numpy()
    return NewTensor(name, dtype, values.shape, lambda start, stop: values[start:stop])


METHOD = Pruning(
    name="low_rank",
    run=factor_projections,
    declared={
        "share": unset(0.0, 1),
        "rank": unset(0),
        "match": Option("layers.*.mlp.*"),
        "multiple": unset(0),
        "tokens": whole_number(8192, 2),
    },
    check=check,
    looks_at=frozenset({"layers", "widths", "heads", "hidden"}),
    changes=frozenset({"factors"}),
    check_order=check_order,
)
