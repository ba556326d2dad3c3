"""Which scheme each tensor gets of what the recipe asks for it, or why it is kept in float."""

from dataclasses import replace
from math import gcd

from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import BLOCK_SIZES, Scheme
from edgepress.exporter.methods.kinds import Method, load_method, zeros_asked
from edgepress.exporter.model.parts.primitives import Stack, Weight
from edgepress.exporter.model.subject import Description
from edgepress.exporter.plan.layout import region_bytes
from edgepress.exporter.recipe.recipe import HALF_BITS, KEPT_BITS, Recipe, Storage

# Of MatMulNBits' 2-bit kernels, for accuracy_level 4 only (onnxruntime 1.31: AVX-512, its pull request 29064; ARM64
# with dot products, 29466). Other blocks and levels are unpacked at each call: one row of a 2048 × 2048 product took
# 22 to 59 ms with blocks of 16 and 256, 0.10 to 0.15 ms with those between.
_BLOCKS_2_BITS = (32, 128)
_KEPT = {
    "norm": "gains are of the type that the norm computes in, float32",
    "bias": "biases are of the type that is added up in, float32",
    "activation": "kept: two numbers",
    "kernel": "kept: a convolution has few weights, and its kernel computes in float32",
    "recurrence": "kept: a few numbers, on which every later token depends",
    "projection": "kept: what it gives is the residual stream, where an error reaches every layer, or logits",
    "positions": "kept: added to the residual stream, where an error reaches every layer",
    "router": "kept: an error there chooses other experts",
    "copies": "kept: a few numbers, by which the copies of the residual stream are mixed",
    "constant": "kept: read by nodes that are not known to take weights",
}


def choose_scheme(weight: Weight, subject: Description, recipe: Recipe) -> tuple[Scheme | None, str]:
    """The scheme of a weight and which entry of the recipe asked for it, or None and why it is kept in float.

    Raises:
        InputError: zeros are asked for where weights stay floats, or within a budget.

    """
    if weight.static == "value":
        return None, "rounded as what is computed"
    if is_kept(weight):
        return None, _KEPT[weight.kind]
    storage, why = recipe.storage(weight.name, weight.kind)
    if weight.kind == "embedding" and not isinstance(load_method(storage.method), Method):
        why += f"; rtn, as {storage.method} looks at what goes into a projection, and a table is only read"
        storage = replace(storage, method="rtn")
    in_head = subject.tied and weight.name == "embedding"
    if in_head:
        why += ", stored once for embedding and head"
        if recipe.head != recipe.embedding:
            why += " ([head] is not used: the model ties the two)"
    widths = weight.shape[1:] if weight.stack is None else weight.stack.columns
    scheme = fit_scheme(storage, weight.shape[1], () if weight.stack is None else widths)
    zeros = zeros_asked(storage.method, recipe)
    _refuse_zeros(weight, storage, recipe, why, zeros)
    if scheme is None and storage.bits not in {HALF_BITS, KEPT_BITS}:
        return None, f"kept: no block of {BLOCK_SIZES[0]} or more columns divides {' and '.join(map(str, widths))}"
    if scheme is None:
        return None, f"kept in float{storage.bits} by {why}"
    scheme = replace(scheme, zeros=zeros)
    why += _why_block(storage, scheme, weight.shape[1], weight.stack)
    if scheme.bits == 2 and recipe.accuracy_level != 4 and (in_head or weight.kind != "embedding"):
        why += f"; slow: accuracy_level {recipe.accuracy_level} unpacks 2 bits at each call"
    return scheme, why


def _why_block(storage: Storage, scheme: Scheme, columns: int, stack: Stack | None) -> str:
    """What a plan adds where a tensor gets another block than the recipe names, or than the first that it names."""
    named = storage.block_size if isinstance(storage.block_size, tuple) else (storage.block_size,)
    if named in {(0,), (scheme.block_size,)} or named[0] == scheme.block_size:
        return ""
    if stack is not None:
        cause = f"blocks of experts divide {' and '.join(map(str, stack.columns))}"
    elif named[0] > scheme.block_size >= columns:
        cause = f"a row has {columns} columns"
    elif len(named) > 1 and scheme.block_size in named:
        cause = f"that takes the fewest bytes for {columns} columns"
    else:
        cause = "onnxruntime has no fast 2-bit kernel for that"
    return f"; block {named[0]} → {scheme.block_size}, as {cause}"


def _refuse_zeros(weight: Weight, storage: Storage, recipe: Recipe, asked: str, zeros: str) -> None:
    """Zeros are codes, so there are none where [weights] keeps floats; and a budget measures tensors without them."""
    if not zeros:
        return
    if recipe.budget is not None:
        raise InputError(
            f"{weight.name}: {storage.method} makes {zeros}, and [budget] measures what tensors lose without them; "
            "leave the budget out, or take a method without zeros, such as gptq"
        )
    if storage.bits in {HALF_BITS, KEPT_BITS} and asked == "[weights]":
        raise InputError(
            f"{weight.name}: {storage.method} makes {zeros} among codes, and {asked} asks for bits = {storage.bits}, "
            'which are floats; ask for 2, 4 or 8 bits, or for method = "rtn" to keep all weights'
        )


def fit_scheme(storage: Storage, columns: int, divided: tuple[int, ...] = ()) -> Scheme | None:
    """The scheme of a tensor with so many columns: no block is larger than it needs to be. None is float32.

    Where blocks must divide some numbers, those ``divided``, a block that is allowed stands for all smaller ones, and
    there is none where the smallest block does not divide them.

    Nor is a 2-bit block one that onnxruntime has no kernel for: it computes those hundreds of times slower. Of several
    blocks that are allowed (all are where a row has one scale) it is the one that takes the fewest bytes, of these the
    largest: rows are padded to whole blocks, so that 128 takes more than 64 where a row has 192 columns.
    """
    if storage.bits in {HALF_BITS, KEPT_BITS}:
        return None
    widest = next((size for size in BLOCK_SIZES if size >= columns), BLOCK_SIZES[-1])
    per_channel = storage.block_size == 0
    named = storage.block_size if isinstance(storage.block_size, tuple) else (storage.block_size,)
    sizes = {min(size, widest) for size in (BLOCK_SIZES if per_channel else named)}
    if storage.bits == 2:
        sizes = {min(max(size, _BLOCKS_2_BITS[0]), _BLOCKS_2_BITS[1]) for size in sizes}
    if divided:
        sizes = {
            max(legal) for size in sizes if (legal := [n for n in BLOCK_SIZES if n <= size and not gcd(*divided) % n])
        }
    if not sizes:
        return None
    schemes = [
        Scheme(storage.method, storage.bits, size, storage.symmetric, per_channel)
        for size in sorted(sizes, reverse=True)
    ]
    return min(schemes, key=lambda scheme: sum(region_bytes((1, columns), scheme).values()))


def is_kept(weight: Weight) -> bool:
    """Whether ``weight`` is kept in float32 whatever the recipe says."""
    return weight.kind in _KEPT
