"""What a profile measures and how well; refused where that is not possible."""

from dataclasses import asdict, dataclass
from typing import Any

from edgepress.errors import InputError
from edgepress.whole import whole_number


@dataclass(frozen=True)
class Settings:
    """How a bundle is profiled.

    - ``prompt_lengths``, ``decode_tokens``: tokens that are prefilled, and decoded after the longest prompt; of an
      encoder and a decoder the source's tokens, frames or samples; None is left to the kind of bundle
    - ``rows``: examples of a run of a bundle of one graph; None is one
    - ``length``: the size of its inputs' other free axes; None is what its task says of them, or the first that runs
    - ``inputs``: a file with an array for each of its inputs, in the place of made-up ones
    - ``threads``: None measures which number is fastest, and takes that
    - ``context``: None is the longest prompt with what is decoded after it
    - ``turns``: samples of each quantity in one round, which is a fresh process
    - ``precision``: rounds are taken until the 95 % interval of each median is no wider than ± this share …
    - ``least_rounds``, ``seconds``: … but no fewer than the first, and no longer than the second, a pass
    - ``exact_rounds``: so many rounds and no other number, whatever the intervals say; None goes by the intervals
    - ``sustained_seconds``: how long the sustained pass decodes without a pause
    - ``idle_seconds``: how long idle power is measured, before and after
    - ``cool_celsius``: a round waits until the hottest zone is below this; None does not wait
    - ``memory_limit_bytes``: the limit that the pass ``limit`` tries; None looks for the smallest
    - ``native``: the program that the pass ``native`` runs, here; it is brought to the device
    - ``energy``: names of energy sources; None is every one that the device has
    """

    prompt_lengths: tuple[int, ...] | None = None
    decode_tokens: int = 64
    threads: int | None = None
    context: int | None = None
    turns: int = 3
    precision: float = 0.02
    least_rounds: int = 5
    exact_rounds: int | None = None
    seconds: float = 60.0
    sustained_seconds: float = 60.0
    idle_seconds: float = 10.0
    cool_celsius: float | None = None
    energy: tuple[str, ...] | None = None
    memory_limit_bytes: int | None = None
    graph: str | None = None
    prepared: bool = True
    native: str | None = None
    rows: tuple[int, ...] | None = None
    length: int | None = None
    inputs: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, said in (("prompt_lengths", "a prompt length"), ("rows", "a number of rows")):
            numbers = getattr(self, name)
            if numbers is not None and not numbers:
                raise InputError(f"there are no {name.replace('_', ' ')}; give at least one")
            for number in numbers or ():
                whole_number(said, number)
        if self.length is not None:
            whole_number("length", self.length)
        for name in ("decode_tokens", "turns"):
            whole_number(name, getattr(self, name))
        if self.threads is not None:
            whole_number("threads", self.threads)
        if self.exact_rounds is not None:
            whole_number("exact_rounds", self.exact_rounds)
        whole_number("least_rounds", self.least_rounds, least=3, takes="an interval needs three")
        if self.memory_limit_bytes is not None:
            whole_number("memory_limit_bytes", self.memory_limit_bytes)
        if not 0 < self.precision < 1:
            raise InputError(f"precision is {self.precision}; it is a share, such as 0.02 for ±2 %")
        for name in ("seconds", "sustained_seconds", "idle_seconds"):
            if not 0 < getattr(self, name) < 86_400:
                raise InputError(f"{name} is {getattr(self, name)}; give more than 0, and less than a day")
        if self.prompt_lengths is not None and self.longest > (self.context or self.longest):
            raise InputError(
                f"a prompt of {max(self.prompt_lengths)} tokens and {self.decode_tokens} decoded ones do not fit in "
                f"the context of {self.context}"
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest text; 0 where there are no prompts."""
        return max(self.prompt_lengths) + self.decode_tokens if self.prompt_lengths else 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
