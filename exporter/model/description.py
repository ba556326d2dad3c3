"""What a decoder-only language model is made of: the one description that plan and graph are built from.

An architecture file (``architectures/<model_type>.py``) reads a checkpoint's config into a :class:`Decoder`; nothing
in here reads a file or a weight. Shapes are ``(rows, columns)`` = ``(out_features, in_features)``, as
``torch.nn.Linear`` stores them.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, cast

from edgepress.exporter.source.part import Part

Kind = Literal["linear", "embedding", "head", "norm", "bias", "positions"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class Weight:
    """A parameter of the graph and where its rows come from.

    ``plus`` is added to every element: Gemma stores RMSNorm gains minus one. A weight without ``parts`` is not in the
    checkpoint: calibration makes it.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    plus: float = 0.0

    def __post_init__(self) -> None:
        rows = sum(part.stop - part.start for part in self.parts)
        if self.parts and rows != self.shape[0]:
            raise ValueError(f"{self.name}: parts hold {rows} rows, shape says {self.shape[0]}")


@dataclass(frozen=True)
class Linear:
    """``y = x Wᵀ + b``: x (…, columns) → y (…, rows)."""

    weight: Weight
    bias: Weight | None = None


@dataclass(frozen=True)
class Norm:
    """``rms``: x / sqrt(mean(x²) + ε) · gain; ``layer``: mean removed first, bias added (Ba et al. 2016)."""

    weight: Weight
    epsilon: float
    kind: Literal["rms", "layer"] = "rms"
    bias: Weight | None = None


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021, RoFormer), half-split rotation.

    ``inverse_frequencies`` has ``rotated dimensions / 2`` entries; fewer than ``head_dim / 2`` is partial rotary.
    cos and sin are multiplied by ``attention_factor`` (yarn, longrope). longrope uses
    ``long_inverse_frequencies`` for every position of a call whose total length exceeds ``long_from``.
    """

    inverse_frequencies: tuple[float, ...]
    attention_factor: float = 1.0
    long_inverse_frequencies: tuple[float, ...] | None = None
    long_from: int = 0


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Causal grouped-query attention (Ainslie et al. 2023).

    ``qkv`` is one projection whose rows are q (heads · head_dim), k and v (kv_heads · head_dim each): fused because it
    is measured to be faster (benchmarks/fusion.py). ``query_norm``/``key_norm`` are RMS norms either over each head
    (``norm_per_head``, gain (head_dim,)) or over all heads together (gain (heads · head_dim,)). ``rope`` names an
    entry of :attr:`Decoder.ropes`; none means no rotary embedding in this layer. ``window`` counts the positions that
    a query sees, itself included. ``softcap`` c gives scores c · tanh(s / c); 0 is off.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    qkv: Linear
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    output: Linear
    rope: str | None
    norm_per_head: bool = True
    window: int | None = None
    softcap: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MLP:
    """``down(activation(gate(x)) · up(x))``, or ``down(activation(up(x)))`` when there is no gate."""

    gate: Linear | None = None
    up: Linear
    down: Linear
    activation: Activation


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One decoder layer.

    ``h = x + r · post(attention(pre(x)))``, then ``y = h + r · post(mlp(pre(h)))``; a norm that is None is the
    identity and r is ``residual_multiplier``.
    """

    attention_norm: Norm | None
    attention: Attention
    attention_post_norm: Norm | None = None
    mlp_norm: Norm | None
    mlp: MLP
    mlp_post_norm: Norm | None = None
    residual_multiplier: float = 1.0


@dataclass(frozen=True)
class Rotation:
    """The residual stream in another basis, x → x (A ⊗ B) with A and B orthogonal; see :mod:`.rotation`.

    ``left`` and ``right`` are the orders of A and B, ``seed`` draws them. With ``keeps_mean`` the vector of ones is
    mapped to itself, so that a layer norm removes the same mean.
    """

    left: int
    right: int
    seed: int
    keeps_mean: bool = False


@dataclass(frozen=True)
class Decoder:
    """A whole decoder. ``head`` is the embedding's own :class:`Weight` when the two are tied.

    With a ``rotation`` the layers work on the rotated residual stream: what is embedded is rotated, and what goes into
    the final norm is rotated back.
    """

    model_type: str
    hidden_size: int
    vocab_size: int
    context_length: int
    embedding: Weight
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Linear
    ropes: dict[str, Rope]
    positions: Weight | None = None  # learned absolute position embedding, (positions, hidden)
    embedding_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_softcap: float = 0.0
    rotation: Rotation | None = None

    @property
    def tied(self) -> bool:
        """Whether the head reads the embedding's bytes."""
        return self.head.weight.parts == self.embedding.parts

    @property
    def long_from(self) -> int | None:
        """Total length beyond which longrope takes its long frequencies; None without longrope."""
        limits = [rope.long_from for rope in self.ropes.values() if rope.long_inverse_frequencies is not None]
        return min(limits, default=None)

    def weights(self) -> list[Weight]:
        """Every parameter once, in the order in which it is stored: as the graph uses them."""
        tree = (self.embedding, self.positions, self.layers, self.final_norm, self.head)
        return list({weight.name: weight for weight in every(Weight, tree)}.values())


def layer_groups(layer: Layer) -> list[tuple[Linear, ...]]:
    """Projections of a layer that share their input, in the order in which they are computed."""
    mlp = layer.mlp
    first = (mlp.up,) if mlp.gate is None else (mlp.gate, mlp.up)
    return [(layer.attention.qkv,), (layer.attention.output,), first, (mlp.down,)]


def layer_linears(layer: Layer) -> list[Linear]:
    """Projections of a layer in the order in which they are computed."""
    return [linear for group in layer_groups(layer) for linear in group]


def scaled_by_token(layer: Layer) -> list[Linear]:
    """Projections into which tokens of very different sizes go: integer graphs scale each token to 1 there.

    What leaves a norm or attention is alike in size; what goes into ``down`` is not.
    """
    return [layer.mlp.down]


def layer_weights(layer: Layer) -> list[Weight]:
    """Every weight of a layer, in the order in which they are stored."""
    return list(every(Weight, layer))


T = TypeVar("T")
K = TypeVar("K")


@cache
def _fields(kind: Hashable) -> tuple[str, ...]:
    """Names of a dataclass's fields; none of another type."""
    return tuple(field.name for field in fields(kind)) if isinstance(kind, type) and is_dataclass(kind) else ()


def every(kind: type[K], tree: object) -> Iterator[K]:
    """Everything of a ``kind`` in a description (dataclasses and tuples), in the order of its fields."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, tuple):
        for item in tree:
            yield from every(kind, item)
    else:
        for name in _fields(cast(Hashable, type(tree))):
            yield from every(kind, getattr(tree, name))


def changed(kind: type[K], tree: T, change: Callable[[K], K]) -> T:
    """The description with everything of a ``kind`` changed; what has none of it stays the same object."""
    new: Any = tree
    if isinstance(tree, kind):
        new = change(tree)
    elif isinstance(tree, tuple):
        items = [changed(kind, item, change) for item in tree]
        if any(item is not old for item, old in zip(items, tree, strict=True)):
            new = tuple(items)
    else:
        old = {name: getattr(tree, name) for name in _fields(cast(Hashable, type(tree)))}
        other = {name: item for name, value in old.items() if (item := changed(kind, value, change)) is not value}
        if other:
            new = replace(new, **other)
    return new  # type: ignore[no-any-return]  # of the type that went in, as `change` keeps it
