"""What a decoder-only language model is made of: the one description that plan and graph are built from.

An architecture file (``architectures/<model_type>.py``) reads a checkpoint's config into a :class:`Decoder`; nothing
in here reads a file or a weight. Shapes are ``(rows, columns)`` = ``(out_features, in_features)``, as
``torch.nn.Linear`` stores them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import State, StateType, check_states
from edgepress.exporter.model.parts.primitives import Linear, Norm, Rope, RotatedKeys, Source, Weight
from edgepress.exporter.model.parts.tree import every


@dataclass(frozen=True)
class Mixer:
    """What a block computes of the normed residual stream; one file of ``mixers/`` says everything about a kind.

    The base of the descriptions there: frozen dataclasses whose fields stand in the order in which weights are stored.
    ``scaled_by_token`` says that the inputs of the output projection differ much in size from token to token, unlike
    those after a norm or an average: integer graphs scale each token to 1 there.
    """

    scaled_by_token: ClassVar[bool] = False
    scales_input: ClassVar[bool] = False  # its projections read their input times numbers of their own by channel
    ends_in_sum: ClassVar[bool] = False  # its subgraph ends in what is added to the stream, projections included
    takes_no_tokens: ClassVar[bool] = True  # its subgraph computes nothing of no token, too
    keeps_hidden: ClassVar[str] = ""  # why it cannot be made for a narrower residual stream, where it cannot
    no_static_form: ClassVar[str] = ""  # why static graphs cannot have it, where none of its kind can

    def why_not_static(self) -> str:
        """Why static graphs cannot have it; "" where they can."""
        return self.no_static_form

    @property
    def kind(self) -> str:
        """The name of the file that describes it."""
        return type(self).__module__.rpartition(".")[2]

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """Projections that share their input, in the order in which they are computed.

        The first ones are applied to the normed residual stream, which nothing else of the mixer uses: transforms scale
        and rotate their columns. The output of the last one, alone in its group, is added to the stream.
        """
        raise NotImplementedError

    def rounds(self) -> tuple[int, ...]:
        """For each of the :meth:`groups` a number: what goes into it depends on groups of lower numbers alone."""
        return tuple(range(len(self.groups())))

    def taken(self) -> float:
        """How many of its weights a token goes through."""
        return float(sum(prod(linear.weight.shape) for group in self.groups() for linear in group))

    @property
    def input_projections(self) -> tuple[Linear, ...]:
        """The projections of the normed residual stream."""
        return self.groups()[0]

    @property
    def output_projection(self) -> Linear:
        """The projection whose output is the mixer's."""
        return self.groups()[-1][0]

    @property
    def output_projections(self) -> tuple[Linear, ...]:
        """Projections into the residual stream: the mixer's output is a sum of their outputs, each times a number."""
        return (self.output_projection,)

    def states(self, layer: int, floats: StateType = "float32") -> tuple[State, ...]:  # noqa: ARG002 - most have some
        """What it carries from token to token, by the number of its layer.

        ``floats`` is the type that the graph would have them in; a mixer whose kernel has no such type leaves it.
        """
        return ()

    def rotated_keys(self, layer: int) -> RotatedKeys | None:  # noqa: ARG002 - most have none
        """The keys in its :meth:`states` that know the positions of their tokens, by the number of its layer."""
        return None

    def source(self) -> Source | str:
        """What the input of the output projection is linear in, or why there is nothing of that kind."""
        raise NotImplementedError

    @property
    def side(self) -> int:
        """How many columns beside the residual stream it may read or write, from the first on: see :class:`Decoder`."""
        return 0

    def ropes(self) -> tuple[str, ...]:
        """The rotary tables that it uses, as :attr:`Decoder.ropes` names them."""
        return ()

    def windows(self) -> tuple[int, ...]:
        """How many positions a token sees, itself included, where those are not all before it."""
        return ()

    def cache_window(self) -> int | None:
        """How many tokens its keys and values need be kept of; None for all, as others read them, or it has none."""
        return None

    def settings(self) -> tuple[object, ...]:
        """What a config says of it beside sizes: two mixers of a kind with equal ones compute the same function."""
        return ()

    def made_up_for(self, new: Self) -> dict[str, NDArray[np.float32]]:  # noqa: ARG002 - most have nothing to move
        """What rows of weights of ``new`` are multiplied by, (rows,) by name, so that it computes what this one does.

        For what differs with a layer's number alone, beside the :meth:`settings`.
        """
        return {}

    def sizes(self) -> dict[str, int] | None:
        """Config keys of sizes that would else follow from the hidden size; None where a config cannot say them."""
        return {}

    def genai(self) -> dict[str, object]:
        """What onnxruntime-genai wants to know of it, as its config names it."""
        return {}


M = TypeVar("M", bound=Mixer)


@dataclass(frozen=True, kw_only=True)
class Block:
    """``y = stream_norm(x + multiplier · post_norm(mixer(norm(x))))``; a norm that is None is the identity.

    One that stands ``beside`` the block before it reads what that one reads; what both give is added to it. What
    ``stream_norm`` gives is the stream from there on: the transformer as it began (Vaswani et al. 2017), GPT-1. What a
    block and those beside it give together goes through the ``sum_norm`` of the last of them (Gemma 4). With
    ``adds_input`` the output is ``norm(x) + post_norm(mixer(norm(x)))``. The stream after a block, and those beside it,
    is multiplied by ``stream_multiplier`` (Gemma 3n). Where the stream has copies (:class:`AltUp`), a block
    ``to_copies`` reads the corrected active copy, and adds to all copies but the first.
    """

    norm: Norm | None
    mixer: Mixer
    post_norm: Norm | None = None
    multiplier: float = 1.0
    beside: bool = False
    stream_norm: Norm | None = None
    sum_norm: Norm | None = None
    adds_input: bool = False
    stream_multiplier: float = 1.0
    to_copies: bool = False

    @property
    def name(self) -> str:
        """Its name in its layer: its mixer's kind."""
        return self.mixer.kind


@dataclass(frozen=True)
class AltUp:
    """Alternating updates (Baykal et al. 2023): a layer computes one of several copies of the residual stream.

    Of copies h (copies, hidden), the ``active`` one is called h_a, and what says how they are mixed,
    ``m(x) = tanh(router(router_norm(x)) / hidden)``, has a number for each::

        p = h + (prediction · m(h_a)) h         before the blocks, which compute y of p_a; (copies, copies) a token
        c = p + (1 + correction · m(y)) (y − p_a)           after them

    ``output_scale`` (hidden,) multiplies what blocks that add to the copies read of c_a.
    """

    active: int
    router_norm: Norm
    router: Linear  # (copies, hidden)
    prediction: Linear  # (copies · copies, copies): row i · copies + j has how much of h_j comes to p_i
    correction: Linear  # (copies, copies)
    output_scale: Weight | None = None

    @property
    def copies(self) -> int:
        """How many copies there are."""
        return self.router.weight.shape[0]


@dataclass(frozen=True)
class Layer:
    """One decoder layer: blocks one after the other, each of another kind.

    ``parallel`` blocks all read the layer's input instead, and what they add is added up (GPT-J, Wang and Komatsuzaki
    2021); of some of a layer's blocks :attr:`Block.beside` says so. They may share a norm: the same :class:`Norm` in
    several blocks, stored and computed once. ``scale``, of shape (1,), multiplies the residual
    stream after the last block. With ``altup`` the stream has copies.
    """

    blocks: tuple[Block, ...]
    parallel: bool = False
    scale: Weight | None = None
    altup: AltUp | None = None

    def __post_init__(self) -> None:
        names = [block.name for block in self.blocks]
        if len(set(names)) != len(names):
            raise ValueError(f"a layer has the blocks {', '.join(names)}; two of a kind would have one name")
        if any(block.stream_norm is not None for stage in self.stages for block in stage if len(stage) > 1):
            raise ValueError("blocks beside each other have no norm of the stream after one of them")
        to_copies = [block.to_copies for block in self.blocks]
        if to_copies != sorted(to_copies) or (self.altup is None and any(to_copies)):
            raise ValueError("blocks that add to the copies of a stream stand last, in layers with AltUp")
        if self.altup is not None and (self.parallel or self.scale is not None):
            raise ValueError("a layer with AltUp has neither parallel blocks nor a scale")

    @property
    def copies(self) -> int:
        """How many copies of the residual stream there are."""
        return 1 if self.altup is None else self.altup.copies

    @property
    def stages(self) -> list[tuple[Block, ...]]:
        """Blocks that read the same, together; the stages are one after the other."""
        found: list[tuple[Block, ...]] = []
        for block in self.blocks:
            if found and (self.parallel or block.beside):
                found[-1] += (block,)
            else:
                found.append((block,))
        return found

    def block(self, kind: type[Mixer]) -> Block:
        """The block whose mixer is of this kind; LookupError when there is none."""
        for block in self.blocks:
            if isinstance(block.mixer, kind):
                return block
        raise LookupError(f"no {kind.__name__} among {', '.join(block.name for block in self.blocks)}")

    def mixer(self, kind: type[M]) -> M:
        """The mixer of this kind; LookupError when there is none."""
        found = self.block(kind).mixer
        assert isinstance(found, kind)
        return found


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
class PerLayer:
    """What each layer gets of a token beside the residual stream (Gemma 3n, Google 2025).

    ``multiplier · table[token] + scale · norm(projection(embedded))``, (…, layers · width), where ``norm`` is over each
    ``width`` apart. A token beyond the rows of the table reads the first one. Table and projection are rounded as
    embeddings are, without looking at text.
    """

    table: Weight
    multiplier: float
    projection: Linear
    norm: Norm
    scale: float

    @property
    def columns(self) -> int:
        """Columns of all layers."""
        return self.table.shape[1]


def rows_read(table: Weight, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that ``tokens`` read of a table: those beyond its rows the first one."""
    return np.where(tokens < table.shape[0], tokens, 0)


@dataclass(frozen=True)
class Copies:
    """How the copies of the residual stream begin, and how they become one again (:class:`AltUp`).

    With ``like(y, x) = y · ‖x‖ / max(‖y‖, √(hidden · least))``, copy 0 is what is embedded, e, and the others are
    ``like(projection(e), e)``; before the final norm the stream is the mean of copy 0, h, and ``like(back_i(h_i), h)``.
    They are rounded as embeddings are, without looking at text.
    """

    projection: Linear  # ((copies − 1) · hidden, hidden)
    back: tuple[Linear, ...]  # (hidden, hidden), of each copy but the first
    least: float = 1e-5


@dataclass(frozen=True)
class MultiToken:
    """Predicts one token further than its decoder (DeepSeek-V3, DeepSeek-AI 2024, section 2.2, equations 21 to 23).

    With h_i what the decoder's final norm gives at token i, and e the embedding, which is the decoder's::

        x_i = projection([embedding_norm(e(t_{i+1})); hidden_norm(h_i)])        h'_i = final_norm(layer(x_0 … x_i))

    ``head(h'_i)`` predicts token i + 2, and h'_i stands for h_{i+1} where that is to go on from what it predicts.
    ``decoder`` has the layer, the final norm, and the embedding and head of the decoder that this is of.
    """

    decoder: "Decoder"
    embedding_norm: Norm
    hidden_norm: Norm
    projection: Linear  # (hidden, 2 · hidden)

    def weights(self) -> list[Weight]:
        """Its own parameters once, in the order in which they are stored."""
        tree = (self.embedding_norm, self.hidden_norm, self.projection, self.decoder.layers, self.decoder.final_norm)
        return list({weight.name: weight for weight in every(Weight, tree)}.values())


@dataclass(frozen=True)
class Decoder:
    """A whole decoder. ``head`` is the embedding's own :class:`Weight` when the two are tied.

    A token's row of the embedding goes through ``embedding_projection``, where rows are not as wide as the stream; then
    its position's row of ``positions`` is added and ``embedding_norm`` applied. ``head_projection`` goes before the
    head, behind the final norm.

    What passes from layer to layer is the residual stream, of which there may be ``copies``, one after the other, and
    beside it, where there is any, ``side`` columns of each token: the inputs of ``per_layer``, then keys and values
    that several layers use.

    With a ``rotation`` the layers work on the rotated residual stream: what is embedded is rotated, and what goes into
    the final norm is rotated back. ``mtp`` is there where what predicts a token further is to be shipped; it is no part
    of the decoder's own :meth:`weights`.
    """

    model_type: str
    hidden_size: int
    vocab_size: int
    context_length: int
    embedding: Weight
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    head: Linear
    ropes: dict[str, Rope]
    positions: Weight | None = None  # learned absolute position embedding, (positions, hidden)
    embedding_projection: Linear | None = None
    embedding_norm: Norm | None = None  # of what is embedded
    head_projection: Linear | None = None
    embedding_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_softcap: float = 0.0
    rotation: Rotation | None = None
    per_layer: PerLayer | None = None
    copies: Copies | None = None
    mtp: MultiToken | None = None

    @property
    def side(self) -> int:
        """Columns that pass from layer to layer beside the residual stream."""
        return max((block.mixer.side for block in every(Block, self.layers)), default=0)

    @property
    def stream_width(self) -> int:
        """All columns that pass from layer to layer."""
        return self.copied_width + self.side

    @property
    def copied_width(self) -> int:
        """Columns of all copies of the residual stream."""
        return self.hidden_size * (1 if self.copies is None else 1 + len(self.copies.back))

    @property
    def tables(self) -> tuple[Weight, ...]:
        """Weights of which a text needs the rows of its tokens alone."""
        return (self.embedding,) if self.per_layer is None else (self.embedding, self.per_layer.table)

    @property
    def tied(self) -> bool:
        """Whether the head reads the embedding's bytes."""
        return self.head.weight.parts == self.embedding.parts

    @property
    def long_from(self) -> int | None:
        """Total length beyond which longrope takes its long frequencies; None without longrope."""
        limits = [rope.long_from for rope in self.ropes.values() if rope.long_inverse_frequencies is not None]
        return min(limits, default=None)

    def states(
        self,
        in_float16: Callable[[str], bool] = lambda _: False,
        *,
        windows_below: int = 0,
        in_integers: bool = False,
    ) -> tuple[State, ...]:
        """What all layers carry from token to token, in the order of the graph's inputs.

        ``in_float16`` says whether a mixer, such as ``layers.1.attention``, is to have states of that type. Caches of
        windows below ``windows_below`` tokens keep these tokens alone; keys and values are signed bytes
        where they are to be ``in_integers``.
        """
        found = tuple(
            as_integers(kept) if in_integers else kept
            for index, layer in enumerate(self.layers)
            for block in layer.blocks
            for state in block.mixer.states(
                index, "float16" if in_float16(f"layers.{index}.{block.name}") else "float32"
            )
            for kept in [windowed(state, block.mixer.cache_window(), windows_below)]
        )
        check_states(found)
        return found

    def weights(self) -> list[Weight]:
        """Every parameter once, in the order in which it is stored: as the graph uses them."""
        tree = (*self.embedding_weights(), self.layers, self._back(), self.final_norm, self.head_projection, self.head)
        return list({weight.name: weight for weight in every(Weight, tree)}.values())

    def embedding_weights(self) -> tuple[Weight, ...]:
        """What makes the stream of tokens, in the order in which it is stored."""
        copied = None if self.copies is None else self.copies.projection
        tree = (self.embedding_projection, self.positions, self.embedding_norm, self.per_layer, copied)
        return (self.embedding, *every(Weight, tree))

    def head_weights(self) -> tuple[Weight, ...]:
        """What makes logits of the stream, but the head's matrix: norm, projections and the head's bias."""
        return tuple(every(Weight, (self._back(), self.final_norm, self.head_projection, self.head.bias)))

    def _back(self) -> tuple[Linear, ...]:
        return () if self.copies is None else self.copies.back


def layer_groups(layer: Layer) -> list[tuple[Linear, ...]]:
    """Projections of a layer that share their input, in the order in which they are computed."""
    return [group for block in layer.blocks for group in block.mixer.groups()]


def layer_rounds(layer: Layer) -> list[list[int]]:
    """Numbers of the :func:`layer_groups`, those together that do not depend on each other, after those they do on."""
    found: dict[int, list[int]] = {}
    first = begun = 0
    for block in layer.blocks:
        rounds = block.mixer.rounds()
        for number, place in enumerate(rounds, first):
            found.setdefault(begun + place, []).append(number)
        first, begun = first + len(rounds), begun + 1 + max(rounds, default=-1)
    return [found[place] for place in sorted(found)]


def layer_linears(layer: Layer) -> list[Linear]:
    """Projections of a layer in the order in which they are computed."""
    return [linear for group in layer_groups(layer) for linear in group]


def scaled_by_token(layer: Layer) -> list[Linear]:
    """Projections into which tokens of very different sizes go: integer graphs scale each token to 1 there."""
    scaled = [block.mixer for block in layer.blocks if block.mixer.scaled_by_token]
    return [linear for mixer in scaled for linear in mixer.output_projections]


def layer_weights(layer: Layer) -> list[Weight]:
    """Every weight of a layer once, in the order in which they are stored."""
    return list({weight.name: weight for weight in every(Weight, layer)}.values())


def windowed(state: State, window: int | None, below: int) -> State:
    """A cache that keeps ``window`` tokens, where that is below ``below``, or the state as it is."""
    if window is None or window >= below or not state.grows:
        return state
    shape = tuple("window" if axis == "past" else axis for axis in state.shape)
    return replace(state, shape=shape, kind="window", window=window)


def as_integers(state: State) -> State:
    """Keys or values as signed bytes, which GroupQueryAttention rounds them to; other states as they are."""
    return replace(state, type="int8") if state.in_place else state
