"""When what was heard in a window is not believed: it is drawn again at a higher temperature, or is no speech.

The rules are those of Radford et al. 2022, section 4.5, as transformers' ``generate`` has them.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.sequences.model import SequenceModel
from edgepress.runtime.sequences.rules import Times
from edgepress.runtime.sequences.search import Draw
from edgepress.tasks.sequences import Search, Speech

Verdict = Literal["kept", "again", "silence"]


@dataclass(frozen=True)
class Fallback:
    """What is not believed; a limit that is None is no rule.

    - ``temperatures``: of one try after the other; the first at 0 follows the search's beams, others draw each token.
      What the last of them gives is kept
    - ``compression_ratio``: bytes of the tokens by those of the same compressed, at most
    - ``log_probability``: of a token in the mean, at least
    - ``no_speech``: where that is not reached, and the probability that there is no speech is above this, the window
      has none; needs ``log_probability``
    - ``seed``: of what is drawn, so that the same sound gives the same text

    Raises:
        InputError: there is no temperature, or a number is out of its range.

    """

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio: float | None = 2.4
    log_probability: float | None = -1.0
    no_speech: float | None = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0 <= one < math.inf for one in self.temperatures):
            raise InputError(f"temperatures are {self.temperatures}; give at least one, each 0 or above")
        for field in fields(self)[1:4]:
            limit = getattr(self, field.name)
            if limit is not None and not math.isfinite(limit):
                raise InputError(f"{field.name} is {limit}; it is a number, or None for no rule")
        if self.no_speech is not None and self.log_probability is None:
            raise InputError("no_speech is for what log_probability does not reach; give that, too")

    def verdict(self, tokens: Sequence[int], said: Sequence[float], silence: float, vocabulary: int) -> Verdict:
        """What becomes of a target: ``said`` are log-probabilities of its ``tokens``, ``silence`` that of no speech."""
        unlikely = self.log_probability is not None and mean_log_probability(said) < self.log_probability
        if unlikely and self.no_speech is not None and silence > self.no_speech:
            return "silence"
        repeats = self.compression_ratio is not None and compression_ratio(tokens, vocabulary) > self.compression_ratio
        return "again" if unlikely or repeats else "kept"


def mean_log_probability(said: Sequence[float]) -> float:
    """The mean of what each token is, the one that ends a target counted."""
    return float(np.mean(np.array(said, np.float32)))


def compression_ratio(tokens: Sequence[int], vocabulary: int) -> float:
    """Bytes of the tokens, each in as few whole bytes as the vocabulary needs, by those that zlib makes of them."""
    size = int(math.log2(vocabulary) / 8) + 1
    data = b"".join(token.to_bytes(size, "little") for token in tokens)
    return len(data) / len(zlib.compress(data))


def believed(
    model: SequenceModel,
    begin: Sequence[int],
    search: Search,
    *,
    times: Times | None,
    fallback: Fallback | None,
    window: int,
) -> list[int] | None:
    """The target of the source that was encoded last, with the token that ended it; None where there is no speech.

    ``window`` numbers the sources of one sound, each of which is drawn for itself.
    """
    if fallback is None:
        writing = model.write(begin, search, times)
        writing.text()
        return writing.tokens
    silence = 0.0 if fallback.no_speech is None else silence_of(model)
    for attempt, temperature in enumerate(fallback.temperatures):
        draw = None
        if temperature:
            search = replace(search, beams=1)
            draw = Draw(temperature, np.random.default_rng((fallback.seed, window, attempt)))
        writing = model.write(begin, search, times, says=True, draw=draw)
        writing.text()
        verdict = fallback.verdict(writing.tokens, writing.said, silence, model.sequences.vocabulary)
        if verdict != "again":
            break
    return None if verdict == "silence" else writing.tokens


def silence_of(model: SequenceModel) -> float:
    """The probability that there is no speech: of the token before that of no times, where a target begins."""
    speech = model.sequences.speech or Speech()
    if speech.no_timestamps is None:
        return 0.0
    model.session.begin()
    logits = model.session.append(model.sequences.start)
    shifted: NDArray[np.float32] = np.exp(logits - logits.max())
    return float(shifted[speech.no_timestamps - 1] / shifted.sum())
