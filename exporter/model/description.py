"""What a decoder-only language model is made of: the one description that plan and graph are built from.

An architecture file (``architectures/<model_type>.py``) reads a checkpoint's config into a :class:`Decoder`; nothing
in here reads a file or a weight. Shapes are ``(rows, columns)`` = ``(out_features, in_features)``, as
``torch.nn.Linear`` stores them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

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


@dataclass(frozen=True)
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
    output: Linear
    rope: str | None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    norm_per_head: bool = True
    window: int | None = None
    softcap: float = 0.0


@dataclass(frozen=True)
class MLP:
    """``down(activation(gate(x)) · up(x))``, or ``down(activation(up(x)))`` when there is no gate."""

    up: Linear
    down: Linear
    activation: Activation
    gate: Linear | None = None


@dataclass(frozen=True)
class Layer:
    """One decoder layer.

    ``h = x + r · post(attention(pre(x)))``, then ``y = h + r · post(mlp(pre(h)))``; a norm that is None is the
    identity and r is ``residual_multiplier``.
    """

    attention: Attention
    mlp: MLP
    attention_norm: Norm | None
    mlp_norm: Norm | None
    attention_post_norm: Norm | None = None
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
        found: dict[str, Weight] = {}

        def add(*weights: Weight | None) -> None:
            for weight in weights:
                if weight is not None:
                    found.setdefault(weight.name, weight)

        def add_norm(norm: Norm | None) -> None:
            if norm is not None:
                add(norm.weight, norm.bias)

        def add_linears(*linears: Linear | None) -> None:
            for linear in linears:
                if linear is not None:
                    add(linear.weight, linear.bias)

        add(self.embedding, self.positions)
        for layer in self.layers:
            add_norm(layer.attention_norm)
            add_linears(layer.attention.qkv)
            add_norm(layer.attention.query_norm)
            add_norm(layer.attention.key_norm)
            add_linears(layer.attention.output)
            add_norm(layer.attention_post_norm)
            add_norm(layer.mlp_norm)
            add_linears(layer.mlp.gate, layer.mlp.up, layer.mlp.down)
            add_norm(layer.mlp_post_norm)
        add_norm(self.final_norm)
        if not self.tied:
            add(self.head.weight)
        add(self.head.bias)
        return list(found.values())


def layer_groups(layer: Layer) -> list[tuple[Linear, ...]]:
    """Projections of a layer that share their input, in the order in which they are computed."""
    mlp = layer.mlp
    first = (mlp.up,) if mlp.gate is None else (mlp.gate, mlp.up)
    return [(layer.attention.qkv,), (layer.attention.output,), first, (mlp.down,)]


def layer_linears(layer: Layer) -> list[Linear]:
    """Projections of a layer in the order in which they are computed."""
    return [linear for group in layer_groups(layer) for linear in group]


def with_linears(layer: Layer, change: Callable[[Linear], Linear]) -> Layer:
    """The layer with each of its projections changed."""
    attention, mlp = layer.attention, layer.mlp
    return replace(
        layer,
        attention=replace(attention, qkv=change(attention.qkv), output=change(attention.output)),
        mlp=MLP(change(mlp.up), change(mlp.down), mlp.activation, None if mlp.gate is None else change(mlp.gate)),
    )


def scaled_by_token(layer: Layer) -> list[Linear]:
    """Projections into which tokens of very different sizes go: integer graphs scale each token to 1 there.

    What leaves a norm or attention is alike in size; what goes into ``down`` is not.
    """
    return [layer.mlp.down]


def layer_weights(layer: Layer) -> list[Weight]:
    """Every weight of a layer."""
    norms = [
        layer.attention_norm,
        layer.attention.query_norm,
        layer.attention.key_norm,
        layer.attention_post_norm,
        layer.mlp_norm,
        layer.mlp_post_norm,
    ]
    found = [weight for norm in norms if norm is not None for weight in (norm.weight, norm.bias)]
    found += [weight for linear in layer_linears(layer) for weight in (linear.weight, linear.bias)]
    return [weight for weight in found if weight is not None]


def change_parts(tree: Any, change: Callable[[Part], Part]) -> Any:
    """A description (dataclasses, tuples, dicts) with every part changed."""
    if isinstance(tree, Part):
        return change(tree)
    if isinstance(tree, tuple):
        return tuple(change_parts(item, change) for item in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{field.name: change_parts(getattr(tree, field.name), change) for field in fields(tree)})
    return tree
