"""What every session of an encoder and a decoder does: a source is encoded once, then targets of it grow side by side.

On the CPU it is :class:`edgepress.runtime.sequences.session.EncoderDecoder`, on an accelerator
:class:`edgepress.runtime.sequences.static.StaticEncoderDecoder`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.sessions.session import RanOn, check_tokens
from edgepress.tasks.sequences import Sequences

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]
Feed = Mapping[str, NDArray[np.generic]]


class SequenceSession(ABC):
    """The two graphs of a bundle, with one source and some targets of it.

    - ``position``: tokens that each target has so far
    - ``targets``: how many there are; 1 after :meth:`encode`
    - ``source``: positions of what is encoded; 0 where nothing is
    - ``encode_seconds``, ``decode_seconds``: time spent inside onnxruntime
    - ``ran_on``: what computes
    """

    def __init__(self, bundle: Path, sequences: Sequences, ran_on: RanOn) -> None:
        self.bundle, self.sequences, self.ran_on = bundle, sequences, ran_on
        self.position, self.targets, self.source = 0, 0, 0
        self.encode_seconds = self.decode_seconds = 0.0

    @abstractmethod
    def encode(self, feed: Feed) -> Floats:
        """Read a source and begin one target of it; return the encoder's output, (source, hidden).

        Raises:
            InputError: the encoder cannot be run on it.

        """

    @abstractmethod
    def begin(self) -> None:
        """Begin again with one target that has no tokens, of the same source."""

    @abstractmethod
    def spread(self, targets: int) -> None:
        """Make of the one target so many, all alike."""

    @abstractmethod
    def reorder(self, order: NDArray[np.int64]) -> None:
        """Let target i go on from what target ``order[i]`` was."""

    @abstractmethod
    def asked(self, tokens: Tokens, layer: int) -> tuple[Floats, Floats]:
        """What a layer asks of the source at each of ``tokens``, (heads, tokens, head_dim), and the source's keys.

        Keys are (heads, source, head_dim). It begins the target anew with these tokens.

        Raises:
            InputError: the bundle's graph does not tell it of this layer.

        """

    @abstractmethod
    def _run(self, tokens: Tokens) -> Floats:
        """Append tokens, (targets, count), for which there is room; the logits after the last, (targets, ·)."""

    @abstractmethod
    def _run_all(self, tokens: Tokens) -> Floats:
        """As :meth:`_run` of the one target; the logits after each token, (1, count, vocabulary)."""

    def append(self, tokens: Sequence[int] | Tokens) -> Floats:
        """Append tokens to the one target; return the logits after the last, (vocabulary,).

        Raises:
            InputError: there are several targets, a token is not in the vocabulary, or there is no room for them.

        """
        if not self.source:
            raise InputError(f"{self.bundle}: no source was encoded; a target is written of one")
        if self.targets != 1:
            raise InputError(f"there are {self.targets} targets; several tokens are appended to one alone")
        logits: Floats = self._run(self._checked(check_tokens(tokens, self.sequences.vocabulary)[None]))[0]
        return logits

    def step(self, tokens: Tokens) -> Floats:
        """Append one token to each target; return the logits after each, (targets, vocabulary)."""
        return self._run(self._checked(check_tokens(tokens, self.sequences.vocabulary)[:, None]))

    def compute(self, feed: Feed) -> dict[str, NDArray[np.generic]]:
        """The model as one function: the encoder's input and ``decoder_input_ids`` (1, target) to ``logits``."""
        given = dict(feed)
        target = given.pop("decoder_input_ids")
        self.encode(given)
        tokens = check_tokens(target[0], self.sequences.vocabulary)
        return {"logits": self._run_all(self._checked(tokens[None]))}

    def _checked(self, tokens: Tokens) -> Tokens:
        """The tokens; InputError where there is no room for them."""
        rows, count = tokens.shape
        if rows != self.targets or self.position + count > self.sequences.context:
            raise InputError(
                f"{count} tokens for {rows} targets do not fit, of which there are {self.targets} with "
                f"{self.position} tokens each: the decoder has {self.sequences.context} positions"
            )
        return np.ascontiguousarray(tokens)

    def _not_finite(self) -> InputError:
        return InputError(f"{self.bundle / self.sequences.encoder} gives values that are not finite of this source")

    def _one_target(self) -> None:
        if self.targets != 1:
            raise InputError(f"there are {self.targets} targets already")

    def _tells_nothing(self, layer: int) -> InputError:
        return InputError(f"{self.bundle} does not tell what layer {layer} asks of the source; export it again")
