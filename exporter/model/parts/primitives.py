"""What descriptions of models are made of: weights, projections, norms, and how positions are told."""

from dataclasses import dataclass
from typing import Literal

from edgepress.exporter.source.part import Part

Kind = Literal[
    "linear",
    "embedding",
    "head",
    "norm",
    "bias",
    "positions",
    "projection",
    "kernel",
    "recurrence",
    "router",
    "activation",
    "copies",
    "convolution",
    "recurrent",
    "constant",
]


@dataclass(frozen=True)
class Stack:
    """Weights of one shape that a graph reads as one tensor, one after the other: those of a layer's experts.

    They have one scheme, and lie in the data file in the order of ``index``, from 0 to ``count`` − 1. All stacks that
    ``node`` names go into one node, which has one size of blocks: ``columns`` are those of each of these stacks.
    """

    name: str
    index: int
    count: int
    node: str
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A parameter of the graph and where its rows come from.

    ``plus`` is added to every element: Gemma stores RMSNorm gains minus one. A weight without ``parts`` is not in the
    checkpoint: it is ``plus`` everywhere (the gain of a norm that has none is 1) until calibration makes another of it.
    The rows of two ``interleaved`` parts take turns: row 2 i is row i of the first. The columns of an ``ordered`` one
    are stored in an order that lies beside it, as :meth:`PackedTensor.order` has it. An ``expert``'s weight, in a stack
    or not, sees the tokens alone that a router sends there. ``in_float`` says that no kernel computes with codes of it:
    the graph makes floats of them when it is opened; ``stepped`` ones are read by LSTMs, which compute with codes where
    activations are ranged at each call. ``static`` is for graphs in which every value is an integer of a
    range that calibration finds: ``signed`` has codes with one scale a row, in the places that the graph has them;
    ``value`` is rounded as what is computed is.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    plus: float = 0.0
    interleaved: bool = False
    stack: Stack | None = None
    ordered: bool = False
    expert: bool = False
    in_float: bool = False
    stepped: bool = False
    static: Literal["signed", "value"] | None = None

    def __post_init__(self) -> None:
        rows = [part.stop - part.start for part in self.parts]
        if rows and sum(rows) != self.shape[0]:
            raise ValueError(f"{self.name}: parts hold {sum(rows)} rows, shape says {self.shape[0]}")
        if self.interleaved and (len(rows) != 2 or rows[0] != rows[1]):
            raise ValueError(f"{self.name}: parts of {rows} rows cannot take turns")


@dataclass(frozen=True)
class Linear:
    """``y = x Wᵀ + b``: x (…, columns) → y (…, rows)."""

    weight: Weight
    bias: Weight | None = None


@dataclass(frozen=True)
class Norm:
    """``rms``: x / sqrt(mean(x²) + ε) · gain; ``layer``: mean removed first, bias added (Ba et al. 2016).

    Gain and bias have one entry for each channel. Where heads are normalized they may have a row of them for each head,
    (heads · head_dim,) or (heads, head_dim).
    """

    weight: Weight
    epsilon: float
    kind: Literal["rms", "layer"] = "rms"
    bias: Weight | None = None


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021, RoFormer).

    Pair d of the rotated dimensions is (d, d + rotated / 2), or with ``interleaved`` (2 d, 2 d + 1), as GPT-J has it.
    ``inverse_frequencies`` has ``rotated dimensions / 2`` entries; fewer than ``head_dim / 2`` is partial rotary.
    cos and sin are multiplied by ``attention_factor`` (yarn, longrope). longrope uses
    ``long_inverse_frequencies`` for every position of a call whose total length exceeds ``long_from``. With
    ``query_growth`` (β, n) queries at position p are multiplied by 1 + β ln(1 + ⌊p / n⌋) as well (Ministral 3).
    """

    inverse_frequencies: tuple[float, ...]
    attention_factor: float = 1.0
    long_inverse_frequencies: tuple[float, ...] | None = None
    long_from: int = 0
    interleaved: bool = False
    query_growth: tuple[float, int] | None = None


@dataclass(frozen=True)
class Alibi:
    """Attention with linear biases (Press et al. 2022): head h adds ``slopes[h]`` · j to its score of the key at j.

    That is slope · (j − i) for the query at i, as what all keys of a query get alike changes nothing. ``in_bfloat16``
    rounds j, and then the product, to bfloat16, and multiplies by ``factor``: Falcon was trained with that.
    """

    slopes: tuple[float, ...]
    factor: float = 1.0
    in_bfloat16: bool = False


@dataclass(frozen=True)
class RotatedKeys:
    """The state ``name`` holds keys that ``rope`` rotated, an entry of :attr:`Decoder.ropes`.

    ``interleaved`` says whether in pairs of neighbours where a mixer decides that, not the rope. ``gain`` is of an RMS
    norm that comes after the rotation, and multiplies each channel: no rotation moves such keys.
    """

    name: str
    rope: str
    interleaved: bool | None = None
    gain: Weight | None = None


@dataclass(frozen=True)
class Source:
    """What the input of an output projection is linear in: the outputs of some ``rows`` of ``linear``.

    In attention that is v: the rows are blocks of ``width`` channels (heads), and the columns of the output projection
    have each block ``repeats`` times in a row (query heads that share a key-value head), so that the input of column c
    belongs to channel ``c % width`` of block ``c // width // repeats``. Multiplying a block's rows from the left, by a
    number for each channel or where ``width`` > 1 by any matrix (width, width), does the same to these inputs and
    changes nothing else. Without ``turns`` it is numbers only: each channel is multiplied by a gate of its own.
    """

    linear: Linear
    rows: slice
    width: int = 1
    repeats: int = 1
    turns: bool = True
