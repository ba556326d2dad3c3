"""The tokens of one text as they are chosen: by settings, by what was said so far, and by random numbers of their own.

The n-th token that is drawn has the n-th row of random numbers, whatever else is computed in between. So who proposes
tokens can draw by the same numbers as the text will (:meth:`Choosing.ahead`), and a seed gives the same text with
proposals and without: "drafter-invariant" speculation (Daliri, Musco and Suresh 2024, "Coupling without Communication
and Drafter-Invariant Speculative Decoding", section 4). Of distributions p and q both then draw the same token with the
probability Σᵢ 1 / Σⱼ max(pⱼ / pᵢ, qⱼ / qᵢ), no less than (1 − d) / (1 + d) where they differ by d in total variation;
no way of drawing has more than 1 − d, which speculative sampling (Leviathan et al. 2023, algorithm 1) reaches, whose
text depends on what was proposed when.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.generation.penalties import Floats, Indices
from edgepress.runtime.generation.sampling import Sampling, choose


class Choosing:
    """The choice of the tokens after ``prompt``, whose text has room for ``context`` tokens before it is copied."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], context: int) -> None:
        self.sampling = sampling
        self._generator = np.random.default_rng(sampling.seed)
        self._rows: deque[NDArray[np.float64]] = deque()  # random numbers of the next tokens, as far as they were asked
        self._text = np.empty(max(context, len(prompt)) + 1, np.int64)
        self._text[: len(prompt)] = prompt
        self.count = len(prompt)

    @property
    def text(self) -> Indices:
        """The tokens so far."""
        return self._text[: self.count]

    def append(self, token: int) -> None:
        """Note that the text goes on with ``token``."""
        if self.count == len(self._text):  # a text that is longer than the context
            self._text = np.concatenate([self._text, np.empty_like(self._text)])
        self._text[self.count] = token
        self.count += 1

    def next(self, logits: Floats) -> int:
        """The next token, of logits (vocab,): the text's own choice, to which :meth:`append` is to follow."""
        token = choose(logits, self.sampling, self.text, self._noise(0, logits.size))
        if self._rows:
            self._rows.popleft()
        return token

    def ahead(self, logits: Floats, proposed: Sequence[int]) -> int:
        """What :meth:`next` would choose of ``logits`` (vocab,) after ``proposed`` more tokens."""
        text = np.concatenate([self.text, np.array(proposed, np.int64)]) if proposed else self.text
        return choose(logits, self.sampling, text, self._noise(len(proposed), logits.size))

    def _noise(self, ahead: int, vocabulary: int) -> NDArray[np.float64]:
        """The random numbers (vocab,) of the token that is drawn after ``ahead`` others."""
        if not self.sampling.temperature:
            return np.zeros(0)
        while len(self._rows) <= ahead:
            self._rows.append(self._generator.standard_exponential(vocabulary))
        return self._rows[ahead]
