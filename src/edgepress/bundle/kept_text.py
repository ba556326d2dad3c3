"""How much of a text a bundle keeps by default, where its recipe says so, as data: StreamingLLM (Xiao et al. 2024).

Only the standard library is used here: the exporter, the runtime and the manifest share it.
"""

from dataclasses import dataclass

SHARE = 0.125  # of what is kept goes at a time; measured: docs/benchmarks.md, "Long texts"
FIRST = 4  # tokens that always stay: what attention leans on (section 3 of the paper)
_LONGEST = 1 << 24  # tokens


@dataclass(frozen=True)
class KeptLoss:
    """What it loses: bits a token of ``tokens`` tokens, each with what is kept before it, and with the whole text."""

    tokens: int
    bits: float
    whole_bits: float

    def __str__(self) -> str:
        more = self.bits / self.whole_bits - 1
        return (
            f"{self.bits:.4f} bits a token beyond, {self.whole_bits:.4f} with the whole text ({more:+.2%}, of "
            f"{self.tokens:,} tokens)"
        )


@dataclass(frozen=True)
class KeptText:
    """Of a text of more than ``tokens`` tokens stay the ``first`` and the last; ``loss`` where a text told it.

    Raises:
        ValueError: so few tokens are kept that nothing but the first would stay, or more than any text has.

    """

    tokens: int
    first: int = FIRST
    loss: KeptLoss | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.tokens <= _LONGEST or self.recent < 1:
            raise ValueError(
                f"{self.tokens} tokens are kept, the first {self.first} of them always, and {self.forgotten} are "
                f"forgotten at a time; at least {self.first + 2} must be kept, and at most {_LONGEST:,}"
            )

    @property
    def forgotten(self) -> int:
        """How many tokens go at a time, when so many are there and another one comes."""
        return max(1, int(self.tokens * SHARE))

    @property
    def recent(self) -> int:
        """How many of the last tokens stay then."""
        return self.tokens - self.forgotten - self.first
