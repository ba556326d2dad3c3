"""What an encoder-decoder is made of (Vaswani et al. 2017): the one description that plan and graphs are built from.

A family's file (``families/<model_type>.py``) reads a checkpoint's config into an :class:`EncoderDecoder`. The
encoder reads a whole source, text or sound, once; the decoder writes a target a token at a time, and attends to its own
tokens (states that grow) and to the source (states that the encoder's graph gives: keys and values are projected there,
once).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import State, check_states
from edgepress.exporter.model.description import Layer, Rotation
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear, Norm, Rope, Weight
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.packed import Codes, Grid
from edgepress.exporter.source.part import Part

_HEAD_MULTIPLE = 8  # GroupQueryAttention's heads are so many numbers wide, or a multiple
_FLOAT = 4  # bytes
SourceKind = Literal["tokens", "mel", "wave"]


@dataclass(frozen=True)
class RelativeBias:
    """What distances add to scores (Raffel et al. 2020, T5, section 2.1): ``table`` (buckets, heads), a row a bucket.

    Distances up to a quarter of the buckets (half where only the past is seen) have one each, longer ones up to
    ``longest`` share them on a logarithmic scale, and all beyond that the last.
    """

    table: Weight
    longest: int

    def buckets(self, *, causal: bool) -> NDArray[np.int64]:
        """The bucket of each distance from key to query: 0 … longest, or −longest … longest, (distances,).

        The arithmetic is float32, as transformers has it (``T5Attention._relative_position_bucket``).
        """
        count = self.table.shape[0]
        back = np.arange(0 if causal else -self.longest, self.longest + 1)  # query − key
        later = np.zeros_like(back) if causal else (back < 0) * (count // 2)
        far, half = np.abs(back), count if causal else count // 2
        exact = half // 2
        ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
        steps = ratio / np.float32(np.log(self.longest / exact)) * np.float32(half - exact)
        large = np.minimum(exact + steps.astype(np.int64), half - 1)
        return np.asarray(later + np.where(far < exact, far, large))


@dataclass(frozen=True, kw_only=True)
class SelfAttention:
    """Attention of a sequence to itself; the rows of ``qkv`` are q, k and v, heads · head_dim each."""

    heads: int
    head_dim: int
    scale: float
    qkv: Linear
    output: Linear
    rope: Rope | None = None
    bias: RelativeBias | None = None

    @property
    def kept_dim(self) -> int:
        """The width of a head of keys and values that are kept: GroupQueryAttention takes multiples of 8."""
        return -(-self.head_dim // _HEAD_MULTIPLE) * _HEAD_MULTIPLE


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """Attention of the decoder to the source; ``key`` and ``value`` are of the encoder's output."""

    heads: int
    head_dim: int
    scale: float
    query: Linear
    key: Linear
    value: Linear
    output: Linear


@dataclass(frozen=True, kw_only=True)
class Step:
    """``x = after(x + mixer(before(x)))``: one of the norms is None, the identity."""

    mixer: SelfAttention | CrossAttention | MLP
    before: Norm | None = None
    after: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """``activation(x * kernel + bias)`` over time, (out channels, in channels, taps); ``norm`` is of its channels.

    That norm is over all channels and times together (GroupNorm with one group, Wu and He 2018).
    """

    kernel: Weight
    bias: Weight | None
    stride: int
    padding: int
    activation: Literal["gelu", "tanh"]
    norm: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers, each some steps, one after the other; positions (positions, hidden) are added to what goes in."""

    layers: tuple[tuple[Step, ...], ...]
    positions: Weight | None = None
    first_norm: Norm | None = None
    last_norm: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderDecoder:
    """A whole model. ``head`` is the decoder's embedding's own :class:`Weight` where the two are tied.

    ``source`` is what the encoder reads: ``tokens`` of ``source_embedding``, a ``mel`` spectrogram (1, bands, frames)
    or a ``wave`` (1, samples), through ``convolutions``. ``source_length`` is how many positions it has at most, 0 for
    any, and with ``fixed_source`` always. What is embedded is multiplied by ``embedding_multiplier``, what goes into
    the head by ``head_multiplier``. ``made`` has tables that no checkpoint has, by the names that parts give them.
    ``alignment`` has heads of the attention to the source, each by layer and number, that follow what is being said.
    """

    model_type: str
    hidden_size: int
    vocab_size: int
    context_length: int
    source: SourceKind
    source_length: int
    fixed_source: bool = False
    bands: int = 0
    convolutions: tuple[Convolution, ...] = ()
    source_embedding: Weight | None = None
    encoder: Stack
    embedding: Weight
    embedding_multiplier: float = 1.0
    decoder: Stack
    head: Linear
    head_multiplier: float = 1.0
    made: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, compare=False)
    alignment: tuple[tuple[int, int], ...] = ()
    # what a Decoder has besides, for whoever is handed either
    layers: tuple[Layer, ...] = ()
    rotation: Rotation | None = None
    long_from: int | None = None

    @property
    def tied(self) -> bool:
        """Whether the head reads the embedding's bytes."""
        return self.head.weight.parts == self.embedding.parts

    @property
    def least_samples(self) -> int:
        """Samples, or frames, without which the convolutions give no position."""
        least = 1
        for convolution in reversed(self.convolutions):
            least = (least - 1) * convolution.stride + convolution.kernel.shape[2] - 2 * convolution.padding
        return least

    def weights(self) -> list[Weight]:
        """Every parameter once, in the order in which it is stored: as the graphs use them."""
        tree = (self.embedding, self.source_embedding, self.convolutions, self.encoder, self.decoder, self.head)
        return list({weight.name: weight for weight in every(Weight, tree)}.values())

    def states(self) -> tuple[State, ...]:
        """What the decoder's graph reads beside tokens: of each layer keys and values of its own, and of the source."""
        found: list[State] = []
        for index, steps in enumerate(self.decoder.layers):
            for step in steps:
                if isinstance(step.mixer, SelfAttention):
                    found += self._own(index, step.mixer)
                elif isinstance(step.mixer, CrossAttention):
                    found += self._encoded(index, step.mixer)
        check_states(found)
        return tuple(found)

    @staticmethod
    def _own(index: int, a: SelfAttention) -> list[State]:
        return [
            State(
                name=f"layers.{index}.{part}",
                input=f"past_key_values.{index}.{part}",
                output=f"present.{index}.{part}",
                shape=("batch", a.heads, "past", a.kept_dim),
                type="float32",
                kind="key-value",
            )
            for part in ("key", "value")
        ]

    def _encoded(self, index: int, a: CrossAttention) -> list[State]:
        return [
            State(
                name=f"layers.{index}.encoded_{part}",
                input=f"encoded.{index}.{part}",
                output=f"encoder.{index}.{part}",
                shape=(1, a.heads, self.source_length if self.fixed_source else "source", a.head_dim),
                type="float32",
                kind="encoded",
            )
            for part in ("key", "value")
        ]


@dataclass(frozen=True)
class MadeWeights:
    """Weights of a checkpoint, and tables that are computed: a :class:`~.subject.WeightSource`."""

    checkpoint: Checkpoint
    made: Mapping[str, NDArray[np.float32]]

    def part_rows(self, part: Part, start: int, stop: int) -> NDArray[np.float32]:
        """See :meth:`Checkpoint.part_rows`."""
        table = self.made.get(part.tensor)
        if table is None:
            return self.checkpoint.part_rows(part, start, stop)
        return table[part.start + start : part.start + stop]

    def part_codes(self, part: Part, start: int, stop: int) -> tuple[Grid, Codes]:
        """See :meth:`Checkpoint.part_codes`."""
        return self.checkpoint.part_codes(part, start, stop)

    def part_order(self, part: Part) -> NDArray[np.int32] | None:
        """See :meth:`Checkpoint.part_order`."""
        return None if part.tensor in self.made else self.checkpoint.part_order(part)

    def by_columns(self, part: Part) -> bool:
        """See :meth:`Checkpoint.by_columns`."""
        return part.tensor not in self.made and self.checkpoint.by_columns(part)

    def itemsize(self, name: str) -> float:
        """See :meth:`Checkpoint.itemsize`."""
        return _FLOAT if name in self.made else self.checkpoint.itemsize(name)

    def source_hashes(self) -> dict[str, str]:
        """See :meth:`Checkpoint.source_hashes`."""
        return self.checkpoint.source_hashes()
